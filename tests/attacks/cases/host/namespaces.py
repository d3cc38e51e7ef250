"""Enters or makes namespaces, in which it would be root."""
import ctypes
import os

from attempt import attempt, attempt_call, call

KINDS = {"mnt": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000, "user": 0x10000000,
         "pid": 0x20000000, "net": 0x40000000}


def clone(flags):
    if call("clone", flags | 17) == 0:
        os._exit(0)


for kind, flag in KINDS.items():
    attempt_call("unshare", flag, what=f"unshare {kind}")
    attempt(f"clone {kind}", lambda: clone(flag))
arguments = (ctypes.c_uint64 * 8)(KINDS["user"], 0, 0, 0, 17)
attempt_call("clone3", arguments, 64)
for kind in ("user", "mnt", "net"):
    handle = -1
    try:
        handle = os.open(f"/proc/self/ns/{kind}", os.O_RDONLY)
    except OSError:
        pass
    attempt_call("setns", handle, KINDS[kind], what=f"setns {kind}")
