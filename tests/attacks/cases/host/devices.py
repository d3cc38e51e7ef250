"""Opens devices of the machine."""
import os

from attempt import attempt

for name in ("mem", "kmem", "port", "kmsg", "sda", "vda", "nvme0n1", "loop0", "kvm", "fuse", "net/tun", "vhost-vsock",
             "snapshot", "uinput", "dri/card0", "ppp", "console", "tty0"):
    attempt(name, lambda: os.close(os.open(f"/dev/{name}", os.O_RDONLY | os.O_NONBLOCK)))
attempt("a new one", lambda: open("/dev/new", "w"))
