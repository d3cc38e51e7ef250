"""Works in small rounds with everything a job may use, and looks out for strangers."""
import ctypes
import hashlib
import json
import os
import socket
import time

asked = json.load(open("/input/data.json"))
strange = []
for folder in ("/tmp", "/output", "/dev/shm"):
    strange += [f"{folder}/{name}" for name in os.listdir(folder)]

# Doors on which nobody but this job may knock.
tcp = socket.create_server(("127.0.0.1", asked["port"]))
local = socket.socket(socket.AF_UNIX)
local.bind("\0tako-neighbour")
local.listen()
for door in (tcp, local):
    door.setblocking(False)

# A piece of System V memory under a number that anybody may name.
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
memory = libc.shmget(asked["port"], 4096, 0o1600)
address = libc.shmat(memory, None, 0) if memory >= 0 else None
mine = b"nobody else writes here"
if address is not None:
    ctypes.memmove(address, mine, len(mine))

block = b"n" * 4096
digest = hashlib.sha256(block).digest()
rounds = longest = 0
print("begun", flush=True)
begun = last = time.monotonic()
while (last - begun) * 1000 < asked["ms"]:
    digest = hashlib.sha256(digest + block).digest()
    with open("/tmp/state", "wb") as file:
        file.write(digest)
    with open("/tmp/state", "rb") as file:
        digest = file.read()
    child = os.fork()
    if child == 0:
        os._exit(7)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 7:
        strange.append("the child did not end as told")
    time.sleep(0.02)
    rounds += 1
    now = time.monotonic()
    longest, last = max(longest, now - last), now

for door in (tcp, local):
    try:
        door.accept()
        strange.append(f"a visitor at {door.getsockname()}")
    except BlockingIOError:
        pass
if address is not None and ctypes.string_at(address, len(mine)) != mine:
    strange.append("the shared memory was written to")
for process in filter(str.isdigit, os.listdir("/proc")):
    if int(process) not in (1, os.getpid()):
        strange.append(f"process {process}")
told = {"rounds": rounds, "digest": digest.hex(), "longest_ms": int(longest * 1000), "strange": strange}
json.dump(told, open("/output/result.json", "w"))
print("done")
