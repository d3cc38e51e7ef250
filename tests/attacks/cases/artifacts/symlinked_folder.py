"""Leaves symbolic links to folders outside, and to the folder itself."""
import os

os.symlink("/etc", "/output/etc")
os.symlink(".", "/output/self")
os.mkdir("/output/folder")
os.symlink("../../etc", "/output/folder/up")
