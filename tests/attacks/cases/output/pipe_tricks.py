"""Makes its output pipe as large as it may, reads from it itself, and leaves it full."""
import fcntl
import os

F_SETPIPE_SZ = 1031
size = 65536
try:
    size = fcntl.fcntl(1, F_SETPIPE_SZ, 1 << 20)
except OSError:
    pass
both = -1
try:
    both = os.open("/proc/self/fd/1", os.O_RDWR | os.O_NONBLOCK)
    os.write(1, b"stolen" * 1000)
    os.read(both, 100)
except OSError:
    pass
flags = fcntl.fcntl(1, fcntl.F_GETFL)
for more in (os.O_NONBLOCK, os.O_NONBLOCK | os.O_DIRECT):
    try:
        fcntl.fcntl(1, fcntl.F_SETFL, flags | more)
    except OSError:
        pass
try:
    while os.write(1, b"x" * size):
        pass
except BlockingIOError:
    pass
os._exit(0)
