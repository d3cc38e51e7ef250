"""Leaves an orphan that writes a file after its parent's end."""
import os
import time

reader, writer = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
        os.write(writer, b"up")
        while os.getppid() != 1:
            time.sleep(0.001)
        time.sleep(0.3)
        open("/output/late.txt", "w").write("I outlived my parent")
        time.sleep(3600)
    os._exit(0)
os.wait()
os.read(reader, 2)
open("/output/early.txt", "w").write("in time")
