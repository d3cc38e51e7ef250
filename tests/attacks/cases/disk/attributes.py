"""Hides bytes in extended attributes, which no size limit of a file counts."""
import errno
import os

count, told = 0, "done"
try:
    for file in range(200):
        path = f"/tmp/{file}"
        open(path, "w").close()
        for number in range(4):
            os.setxattr(path, f"user.{number}", b"x" * 60000)
            count += 1
except OSError as error:
    told = errno.errorcode[error.errno]
print(f"ended: {told}")
print(f"attributes: {count}")
