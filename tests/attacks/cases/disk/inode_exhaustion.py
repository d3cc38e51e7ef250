"""Makes empty files for as long as it may."""
import errno
import os

for folder in ("/tmp", "/dev/shm", "/output"):
    count, told = 0, "done"
    try:
        while count < 3000:
            os.close(os.open(f"{folder}/{count}", os.O_CREAT | os.O_WRONLY))
            count += 1
    except OSError as error:
        told = errno.errorcode[error.errno]
    for name in os.listdir(folder):
        os.unlink(f"{folder}/{name}")
    print(f"{folder}: {told}")
    print(f"{folder} files: {count}")
