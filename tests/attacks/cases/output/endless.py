"""Prints for ever."""
while True:
    print("and again")
