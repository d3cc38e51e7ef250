"""Writes everywhere it should not, changes its code, and replaces programs."""
import json
import os

from attempt import attempt

token = json.load(open("/input/data.json"))["token"]
for folder in ("/", "/etc", "/usr", "/usr/bin", "/usr/lib", "/var/tmp", "/run", "/root", "/home", "/dev", "/proc",
               "/sys", "/code", "/input", "/tako"):
    attempt(folder, lambda: open(f"{folder}/{token}", "w"))
attempt("code", lambda: open("/code/main.py", "a"))
attempt("remove the code", lambda: os.unlink("/code/main.py"))
attempt("input", lambda: open("/input/data.json", "a"))
attempt("open up the input", lambda: os.chmod("/input", 0o777))
attempt("python", lambda: open(os.path.realpath("/usr/bin/python3"), "r+b"))
attempt("passwd", lambda: open("/etc/passwd", "a"))
attempt("rename /tmp", lambda: os.rename("/tmp", "/tmp2"))
for folder in ("/tmp", "/output", "/dev/shm"):
    open(f"{folder}/{token}", "w").write("this must not be on the host")
