"""Has a child that is killed for its memory, and exits with 0 itself."""
import os

child = os.fork()
if child == 0:
    hoard = []
    while True:
        hoard.append(bytearray(b"x" * (1 << 20)))
status = os.waitpid(child, 0)[1]
print(f"child: signal {os.WTERMSIG(status)}")
