"""Becomes another user, gains capabilities and raises its limits."""
import ctypes
import os
import resource

from attempt import attempt

libc = ctypes.CDLL(None, use_errno=True)


def check(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), "refused")


attempt("setuid", lambda: os.setuid(0))
attempt("setgid", lambda: os.setgid(0))
attempt("setresuid", lambda: os.setresuid(-1, 0, -1))
attempt("setgroups", lambda: os.setgroups([0]))
header = (ctypes.c_uint32 * 2)(0x20080522, 0)
data = (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6)
attempt("capset", lambda: check(libc.capset(header, data)))
PR_CAP_AMBIENT, RAISE, CAP_SYS_ADMIN = 47, 2, 21
attempt("ambient capability", lambda: check(libc.prctl(PR_CAP_AMBIENT, RAISE, CAP_SYS_ADMIN, 0, 0)))
attempt("chown to root", lambda: (open("/tmp/file", "w").close(), os.chown("/tmp/file", 0, 0)))
for name in ("NOFILE", "FSIZE", "CORE"):
    limit = getattr(resource, f"RLIMIT_{name}")
    hard = resource.getrlimit(limit)[1]
    attempt(f"raise {name}", lambda: resource.setrlimit(limit, (hard + 1, hard + 1)))
attempt("limits of PID 1", lambda: resource.prlimit(1, resource.RLIMIT_NOFILE, (1, 1)))
attempt("priority", lambda: os.setpriority(os.PRIO_PROCESS, 0, -20))
attempt("priority of PID 1", lambda: os.setpriority(os.PRIO_PROCESS, 1, 19))
attempt("realtime", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50)))
