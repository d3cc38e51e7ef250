"""Looks for a file of the host by every way out of its root."""
import json
import os

from attempt import attempt

told = json.load(open("/input/data.json"))
path = told["secret_path"]
for root in ("", "/proc/1/root", "/proc/1/cwd", "/proc/self/root/..", "/../../..", "/host", "/mnt", "/rootfs",
             "/proc/self/cwd/../../.."):
    attempt(f"{root or '/'}", lambda: open(root + path).read())
here = os.open("/", os.O_RDONLY)
attempt("above the root", lambda: os.open("../../.." + path, os.O_RDONLY, dir_fd=here))
for name in ("/etc/shadow", "/root/.ssh", "/var/lib/docker", "/home/user", "/var/log/syslog", "/run/tako-vm"):
    attempt(name, lambda: os.listdir(name) if not name.startswith("/etc") else open(name))
