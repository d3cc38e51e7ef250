"""Closes all its descriptors, opens others in their place, and exits with 6."""
import os

os.closerange(0, 256)
for _ in range(3):
    os.open("/dev/null", os.O_RDWR)
os.write(1, b"nobody reads this")
os._exit(6)
