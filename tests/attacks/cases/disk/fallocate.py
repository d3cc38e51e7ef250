"""Reserves space without writing."""
import errno
import os

for size in (1 << 40, 1 << 30):
    file = os.open("/tmp/reserved", os.O_CREAT | os.O_RDWR)
    try:
        os.posix_fallocate(file, 0, size)
        told = "done"
    except OSError as error:
        told = errno.errorcode[error.errno]
    os.close(file)
    print(f"{size}: {told}")
