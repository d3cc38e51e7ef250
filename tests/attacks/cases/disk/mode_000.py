"""Leaves files and folders that nobody may read."""
import os

os.mkdir("/output/folder")
for name in ("closed.txt", "folder/inner.txt"):
    with open(f"/output/{name}", "w") as file:
        file.write("closed")
    os.chmod(f"/output/{name}", 0)
os.chmod("/output/folder", 0)
