"""Sends every signal to PID 1, straight and queued."""
import ctypes
import os
import signal

libc = ctypes.CDLL(None)
sent = 0
for number in range(1, 65):
    try:
        os.kill(1, number)
        sent += 1
    except OSError:
        pass
    libc.sigqueue(1, number, 0)
print(f"sent: {sent}", flush=True)
print(f"parent: {os.getppid()}")
