"""Stops a child, waits for it to end, and has the child's own timer never fire."""
import os
import signal

child = os.fork()
if child == 0:
    os.kill(os.getpid(), signal.SIGSTOP)
    os._exit(0)
os.waitpid(child, os.WUNTRACED)
print("stopped", flush=True)
os.waitpid(child, 0)
