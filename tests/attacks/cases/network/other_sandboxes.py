"""Looks for the sandbox beside it: its port, its sockets, its memory, its files, its processes."""
import ctypes
import errno
import json
import os
import socket

from attempt import attempt

port = json.load(open("/input/data.json"))["neighbour_port"]
libc = ctypes.CDLL(None, use_errno=True)


def memory():
    found = libc.shmget(port, 4096, 0o600)
    if found < 0:
        raise OSError(ctypes.get_errno(), "none")


def listed(folder):
    if not os.listdir(folder):
        raise FileNotFoundError(errno.ENOENT, "nothing there")


attempt("port", lambda: socket.create_connection(("127.0.0.1", port), 1))
attempt("abstract socket", lambda: socket.socket(socket.AF_UNIX).connect("\0tako-neighbour"))
attempt("shared memory", memory)
for folder in ("/tmp", "/output", "/dev/shm"):
    attempt(folder, lambda: listed(folder))
