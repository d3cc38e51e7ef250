"""Traces processes, reads their memory and takes their descriptors."""
import os
import signal

from attempt import attempt_call, call

PTRACE_TRACEME, PTRACE_ATTACH, PTRACE_SEIZE = 0, 16, 0x4206
child = os.fork()
if child == 0:
    signal.pause()
try:
    handle = call("pidfd_open", 1, 0)
except OSError:
    handle = 0
attempt_call("ptrace", PTRACE_TRACEME, 0, 0, 0, what="traceme")
for process, what in ((1, "PID 1"), (child, "own child")):
    attempt_call("ptrace", PTRACE_ATTACH, process, 0, 0, what=f"attach to {what}")
    attempt_call("ptrace", PTRACE_SEIZE, process, 0, 0, what=f"seize {what}")
    attempt_call("process_vm_readv", process, 0, 0, 0, 0, 0, what=f"read memory of {what}")
    attempt_call("process_vm_writev", process, 0, 0, 0, 0, 0, what=f"write memory of {what}")
attempt_call("pidfd_getfd", handle, 0, 0)
attempt_call("kcmp", 1, os.getpid(), 0, 0, 0)
os.kill(child, signal.SIGKILL)
