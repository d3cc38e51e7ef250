"""Leaves symbolic links to what is outside."""
import os

os.symlink("/etc/passwd", "/output/passwd.txt")
os.symlink("/proc/1/environ", "/output/environ")
os.symlink("/etc/passwd", "/output/result.json")
os.symlink("loop", "/output/loop")
os.symlink("/proc/self/fd/0", "/output/fd")
open("/output/plain.txt", "w").write("plain")
