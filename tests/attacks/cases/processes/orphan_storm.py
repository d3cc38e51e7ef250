"""Makes orphans without pause, all of which PID 1 has to bury."""
import os

while True:
    try:
        if os.fork() == 0:
            try:
                os.fork()
            finally:
                os._exit(0)
        os.wait()
    except OSError:
        pass
