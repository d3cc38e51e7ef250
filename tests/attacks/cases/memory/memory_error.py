"""Asks for more memory than any machine has, below its limit."""
bytearray(1 << 60)
