"""Uses descriptors that it was born with."""
import os
import stat
import subprocess
import sys

LOOK = """
import os, stat
for number in range(256):
    try: mode = os.fstat(number).st_mode
    except OSError: continue
    kind = 'pipe' if stat.S_ISFIFO(mode) else os.readlink(f'/proc/self/fd/{number}')
    print(f'{number}: {kind}', flush=True)
"""
exec(LOOK)
print("child", flush=True)
subprocess.run([sys.executable, "-S", "-c", LOOK], close_fds=False)
