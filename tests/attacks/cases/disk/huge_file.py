"""Writes one file for as long as it grows, on each file system."""
import errno

block = b"x" * (1 << 20)
for folder in ("/tmp", "/dev/shm", "/output"):
    size = 0
    try:
        with open(f"{folder}/huge", "wb", buffering=0) as file:
            while size < 1 << 30:
                size += file.write(block)
        told = "done"
    except OSError as error:
        told = errno.errorcode[error.errno]
    open(f"{folder}/huge", "wb").close()
    print(f"{folder}: {told}")
    print(f"{folder} bytes: {size}")
