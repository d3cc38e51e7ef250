"""Leaves two names for one file, and tries names for others' files."""
import os

from attempt import attempt

open("/output/one", "w").write("one of two")
os.link("/output/one", "/output/two")
for path in ("/etc/passwd", "/code/main.py", "/proc/1/environ", "/input/data.json"):
    attempt(path, lambda: os.link(path, "/output/theirs"))
