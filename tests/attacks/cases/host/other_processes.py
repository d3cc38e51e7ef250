"""Looks for processes of anybody else."""
import os

seen = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
print(f"others: {[process for process in seen if process not in (1, os.getpid())]}")
# By number, where a listing might hide them.
found = []
for process in range(2, 5000):
    if process == os.getpid():
        continue
    try:
        os.kill(process, 0)
        found.append(process)
    except ProcessLookupError:
        pass
    except PermissionError:
        found.append(process)
print(f"answered: {found}")
