"""Leaves a daemon behind that has a session of its own, and ends."""
import os
import sys
import time

reader, writer = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(writer, b"up")
        while True:
            print("the daemon lives", flush=True)
            open("/output/daemon.txt", "a").write("x")
            time.sleep(0.5)
    os._exit(0)
os.wait()
os.read(reader, 2)
print("parent done")
sys.stdout.flush()
os._exit(0)
