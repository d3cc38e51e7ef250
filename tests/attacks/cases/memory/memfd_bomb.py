"""Fills files that have no name and lie in no file system."""
import os

block = b"x" * (1 << 20)
hoard = []
while True:
    hoard.append(os.memfd_create("hoard"))
    for _ in range(8):
        os.write(hoard[-1], block)
