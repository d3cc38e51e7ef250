"""Leaves an orphan that writes a file after the job's end."""
import os
import time

job = os.getpid()
reader, writer = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
        os.write(writer, b"up")
        try:
            while True:
                os.kill(job, 0)
                time.sleep(0.001)
        except ProcessLookupError:
            time.sleep(1)
        open("/output/late.txt", "w").write("I outlived the job")
        time.sleep(3600)
    os._exit(0)
os.wait()
os.read(reader, 2)
open("/output/early.txt", "w").write("in time")
