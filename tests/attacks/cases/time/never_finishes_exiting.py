"""Raises SystemExit and spins in what runs at the exit."""
import atexit
import sys


def spin():
    print("exiting", flush=True)
    while True:
        pass


atexit.register(spin)
sys.exit(0)
