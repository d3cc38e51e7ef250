"""Makes children that are PID 1's own, with odd signals for their end."""
import os
import time

from attempt import call

CLONE_PARENT = 0x8000
made = 0
for signal in (0, 9, 17, 64):
    try:
        child = call("clone", CLONE_PARENT | signal)
    except OSError:
        continue
    if child == 0:
        time.sleep(0.01)
        os._exit(signal)
    made += 1
time.sleep(0.1)
print(f"made: {made}")
