"""Fills all file systems it may write at once, which are memory."""
import os

block = b"x" * (1 << 20)
for folder in ("/tmp", "/dev/shm", "/output"):
    file = None
    for number in range(200):
        try:
            with open(f"{folder}/{number}", "wb") as file:
                file.write(block)
        except OSError:
            break
    print(f"{folder}: {number}", flush=True)
