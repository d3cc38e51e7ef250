"""Crashes a child, for whose core the host would start a program of its own."""
import ctypes
import os

child = os.fork()
if child == 0:
    os.chdir("/tmp")
    ctypes.string_at(8)
status = os.waitpid(child, 0)[1]
print(f"core: {os.WCOREDUMP(status)}")
print(f"left: {[name for name in os.listdir('/tmp') + os.listdir('/output') if 'core' in name]}")
