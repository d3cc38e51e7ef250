"""Takes memory, and uses it, until the limit of the sandbox ends it."""

hoard = []
while True:
    hoard.append(bytearray(16 * 1024 * 1024))
    # Untouched pages would take no memory.
    hoard[-1][::4096] = b"x" * len(range(0, len(hoard[-1]), 4096))
    print(f"{16 * len(hoard)} MiB", flush=True)
