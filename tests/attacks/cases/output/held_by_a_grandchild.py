"""Leaves its standard output open in a grandchild that never ends."""
import os
import time

if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
        time.sleep(3600)
    os._exit(0)
os.wait()
print("done")
