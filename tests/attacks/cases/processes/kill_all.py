"""Sends SIGKILL to every process it may."""
import os
import signal

child = os.fork()
if child == 0:
    signal.pause()
try:
    os.kill(-1, signal.SIGKILL)
except OSError as error:
    print(f"refused: {error.errno}")
print(f"child: {os.WTERMSIG(os.waitpid(child, 0)[1])}")
