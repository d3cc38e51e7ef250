"""Has a child that is killed for its memory, and exits with 0 itself."""
import os

child = os.fork()
if child == 0:
    hoard = []
    while True:
        # In large steps: close to the limit the kernel reclaims and reads back the same program
        # pages for seconds before it kills.
        hoard.append(b"x" * (64 << 20))
status = os.waitpid(child, 0)[1]
print(f"child: signal {os.WTERMSIG(status)}")
