"""Prints NULs, halves of characters and terminal commands."""
import os

os.write(1, b"a\0b\xff\xfe\xc3\xed\xa0\x80\x1b[2J\x1b]0;title\x07\xf0\x9f")
os.write(2, bytes(range(256)))
