"""Opens settings of the kernel for writing."""
import os

from attempt import attempt

paths = ["/proc/sysrq-trigger", "/proc/self/oom_adj"]
for name in ("kernel/core_pattern", "kernel/modprobe", "kernel/hostname", "kernel/pid_max", "kernel/randomize_va_space",
             "kernel/yama/ptrace_scope", "kernel/unprivileged_bpf_disabled", "vm/drop_caches", "vm/overcommit_memory",
             "fs/file-max", "fs/protected_symlinks", "net/ipv4/ip_forward", "user/max_user_namespaces",
             "kernel/shmmax", "kernel/msgmax", "fs/mqueue/queues_max", "fs/binfmt_misc/register"):
    paths.append(f"/proc/sys/{name}")
# Opened only: what is not written does no harm if it should go through.
for path in paths[:1] + paths[2:]:
    attempt(path, lambda: os.close(os.open(path, os.O_WRONLY)))
for name, text in (("uid_map", b"0 0 1"), ("gid_map", b"0 0 1"), ("setgroups", b"allow"),
                   ("timens_offsets", b"boottime 100 0")):
    attempt(name, lambda: os.write(os.open(f"/proc/self/{name}", os.O_WRONLY), text))
