"""Brings a program and runs it from where it may write."""
import os
import shutil

from attempt import attempt

for folder in ("/tmp", "/output", "/dev/shm"):
    shutil.copy("/bin/true", f"{folder}/program")
    os.chmod(f"{folder}/program", 0o755)
    attempt(folder, lambda: os.posix_spawn(f"{folder}/program", ["program"], {}))
