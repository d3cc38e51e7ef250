"""Tells the guest of an exception that was none, and exits with 0."""
import os

for descriptor in range(3, 64):
    try:
        os.write(descriptor, b"MemoryError\0Exception\0forged" * 10000)
    except OSError:
        pass
os._exit(0)
