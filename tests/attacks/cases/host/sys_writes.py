"""Opens everything below /sys for writing."""
import os

tried, opened = 0, []
for folder, _, names in os.walk("/sys"):
    if folder.startswith("/sys/fs/cgroup"):
        continue
    for name in names:
        path = os.path.join(folder, name)
        if tried == 3000:
            break
        tried += 1
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW))
            opened.append(path)
        except OSError:
            pass
for path in ("/sys/new", "/sys/kernel/new", "/sys/kernel/debug/new", "/sys/fs/bpf/new"):
    try:
        open(path, "w").close()
        opened.append(path)
    except OSError:
        pass
print(f"opened: {opened}")
