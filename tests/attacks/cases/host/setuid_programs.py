"""Runs programs that would make it root, the system's and its own."""
import os
import shutil
import subprocess

found = []
for folder in ("/usr/bin", "/usr/sbin", "/usr/lib/openssh", "/usr/lib/dbus-1.0"):
    if os.path.isdir(folder):
        found += [f"{folder}/{name}" for name in os.listdir(folder)]
found = [path for path in found if os.path.isfile(path) and os.stat(path).st_mode & 0o6000]
print(f"programs: {len(found)}")
gained = []
for path in found:
    try:
        process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
    except OSError:
        continue
    status = open(f"/proc/{process.pid}/status").read()
    users = next(line.split()[1:] for line in status.splitlines() if line.startswith("Uid:"))
    if set(users) != {"1000"}:
        gained.append((path, users))
    process.kill()
    process.wait()
print(f"gained: {gained}")
shutil.copy("/usr/bin/id", "/tmp/id")
os.chmod("/tmp/id", 0o6755)
try:
    subprocess.run(["/tmp/id"])
    print("own: ran")
except PermissionError:
    print("own: refused")
