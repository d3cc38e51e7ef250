"""Appends to a list until the memory is gone."""
hoard = []
while True:
    hoard.append(bytearray(b"x" * (1 << 20)))
