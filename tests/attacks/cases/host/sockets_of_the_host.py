"""Looks for the Docker socket, or anybody's."""
import os
import socket
import stat

from attempt import attempt

for path in ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock",
             "/run/podman/podman.sock", "/run/dbus/system_bus_socket", "/run/systemd/private"):
    attempt(path, lambda: socket.socket(socket.AF_UNIX).connect(path))
found = []
for folder, folders, names in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in ("/proc", "/sys", "/usr")]
    for name in names:
        path = os.path.join(folder, name)
        try:
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                found.append(path)
        except OSError:
            pass
attempt(f"found {found}", lambda: None if found else open("/no/such/socket"))
