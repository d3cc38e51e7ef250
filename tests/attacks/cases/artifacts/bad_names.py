"""Leaves names that lie, command, or are no text."""
import os

names = [b"new\nline", b"tab\t", b"\x1b[2Jescape", b"\xff\xfe", b"x" * 255, b"...", b"-rf", b"c:\\windows", b" ", b"~",
         "\u202egnp.exe".encode(), b"del\x7f", b"\xc2\x85next"]
for name in names:
    with open(b"/output/" + name, "w") as file:
        file.write("x")
os.makedirs(b"/output/" + b"d" * 200)
with open(b"/output/" + b"d" * 200 + b"/" + b"f" * 100, "w") as file:
    file.write("a path of 301 bytes")
