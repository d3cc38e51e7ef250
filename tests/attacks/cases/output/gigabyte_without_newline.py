"""Prints a gigabyte without a newline."""
import os

block = memoryview(b"x" * (1 << 20))
for _ in range(1024):
    rest = block
    while rest:
        rest = rest[os.write(1, rest):]
