"""Makes devices: a disk, a terminal, memory."""
import os
import stat

from attempt import attempt

DEVICES = ((stat.S_IFBLK, 8, 0), (stat.S_IFCHR, 1, 1), (stat.S_IFCHR, 10, 229), (stat.S_IFCHR, 5, 0))
for number, (kind, major, minor) in enumerate(DEVICES):
    what = f"{'block' if kind == stat.S_IFBLK else 'character'} {major} {minor}"
    path = f"/output/{number}"
    attempt(f"make {what}", lambda: os.mknod(path, kind | 0o666, os.makedev(major, minor)))
    attempt(f"open {what}", lambda: os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK)))
