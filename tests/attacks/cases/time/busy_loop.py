"""Spins for ever."""
while True:
    pass
