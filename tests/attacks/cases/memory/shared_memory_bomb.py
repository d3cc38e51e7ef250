"""Fills System V shared memory, which no process needs to hold."""
import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
for number in range(1000):
    segment = libc.shmget(0, 1 << 20, 0o1600)
    address = libc.shmat(segment, None, 0)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    ctypes.memset(address, 120, 1 << 20)
    libc.shmdt(ctypes.c_void_p(address))
