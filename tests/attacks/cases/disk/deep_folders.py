"""Leaves a file below hundreds of folders in each other."""
import os

os.chdir("/output")
depth = 0
try:
    while depth < 500:
        os.mkdir("d")
        os.chdir("d")
        depth += 1
    open("file.txt", "w").write("deep")
except OSError:
    pass
os.makedirs("/output/a/b/c", exist_ok=True)
open("/output/a/b/c/shallow.txt", "w").write("reached")
print(f"depth: {depth}")
