"""Makes system calls by the tables of other architectures, past the filter."""
import ctypes
import mmap
import os
import platform


def child(act):
    number = os.fork()
    if number == 0:
        try:
            os._exit(0 if act() else 1)
        except BaseException:
            os._exit(2)
    status = os.waitpid(number, 0)[1]
    return "done" if status == 0 else "refused"


def machine_code(code):
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return ctypes.CFUNCTYPE(ctypes.c_int)(address)()


if platform.machine() == "x86_64":
    libc = ctypes.CDLL(None)
    # mov eax, 20 (getpid of the 32-bit table); int 0x80; ret
    print("32-bit:", child(lambda: machine_code(b"\xb8\x14\0\0\0\xcd\x80\xc3") == os.getpid()))
    # The x32 table's getpid.
    print("x32:", child(lambda: libc.syscall(ctypes.c_long(0x40000000 | 39)) == os.getpid()))
else:
    print("32-bit: refused\nx32: refused")
