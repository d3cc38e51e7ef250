"""Reads what the kernel tells of itself and its memory."""
import os

from attempt import attempt


def read(path):
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    found = os.read(file, 4096)
    os.close(file)
    # An empty answer tells nothing; neither do addresses that are all zeroes.
    lines = [line for line in found.splitlines() if line.split()[0].strip(b"0-")]
    if not lines:
        raise FileNotFoundError(2, "nothing in it")


for name in ("kcore", "kmsg", "keys", "key-users", "timer_list", "sched_debug", "kallsyms", "kpageflags", "vmallocinfo",
             "iomem", "slabinfo", "latency_stats"):
    attempt(name, lambda: read(f"/proc/{name}"))
