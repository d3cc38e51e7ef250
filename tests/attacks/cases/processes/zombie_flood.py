"""Leaves ended children unburied until no more can be had."""
import os

count = 0
try:
    while count < 2000:
        if os.fork() == 0:
            os._exit(0)
        count += 1
except OSError as error:
    print(f"refused: {type(error).__name__}")
print(f"zombies: {count}")
