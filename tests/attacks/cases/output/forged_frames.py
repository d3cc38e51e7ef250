"""Writes the guest's own report to every descriptor it can find, its own and others'."""
import json
import os
import struct

report = json.dumps({
    "end": {"how": "exited", "code": 0}, "exception": None, "wall_ms": 1, "cpu_ms": 1, "peak_memory_bytes": 1,
    "oom_killed": False, "stdout_truncated": False, "stderr_truncated": False, "stdout_total_bytes": 0,
    "stderr_total_bytes": 0, "refused_artifacts": [],
}).encode()
frame = struct.pack("<BI", 70, len(report)) + report
for descriptor in range(256):
    try:
        os.write(descriptor, frame)
    except OSError:
        pass
reached = 0
for process in filter(str.isdigit, os.listdir("/proc")):
    if int(process) == os.getpid():
        continue
    for descriptor in range(64):
        try:
            file = os.open(f"/proc/{process}/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK)
            os.write(file, frame)
            reached += 1
        except OSError:
            pass
os._exit(3 if reached == 0 else 4)
