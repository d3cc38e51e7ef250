"""Reads the environment, memory and descriptors of PID 1."""
import os
import sys

from attempt import attempt

for name in ("environ", "mem", "maps", "auxv", "syscall", "pagemap", "io", "stack"):
    attempt(name, lambda: open(f"/proc/1/{name}", "rb").read(1))
for name in ("fd", "fdinfo", "map_files", "ns"):
    attempt(name, lambda: [os.readlink(f"/proc/1/{name}/{inner}") for inner in os.listdir(f"/proc/1/{name}")])
try:
    # What there is to see, where it can be seen.
    sys.stderr.write("".join(entry.split("=")[0] + "\n" for entry in open("/proc/1/environ").read().split("\0") if entry))
except OSError:
    pass
for name in ("root", "cwd", "exe"):
    attempt(name, lambda: os.readlink(f"/proc/1/{name}"))
