"""Raises its own limits, leaves its cgroup, and sets a release agent."""
import os

opened = []
for folder, folders, names in os.walk("/sys/fs/cgroup"):
    for name in names:
        try:
            os.close(os.open(os.path.join(folder, name), os.O_WRONLY))
            opened.append(os.path.join(folder, name))
        except OSError:
            pass
    try:
        os.mkdir(os.path.join(folder, "escape"))
        opened.append(os.path.join(folder, "escape"))
    except OSError:
        pass
print(f"opened: {opened}")
groups = open("/proc/self/cgroup").read().split()
print(f"outside: {[group for group in groups if '..' in group]}")
