"""Gives its interface an address and makes a new one."""
import fcntl
import socket
import struct

from attempt import attempt

SIOCSIFADDR, SIOCSIFFLAGS, SIOCADDRT = 0x8916, 0x8914, 0x890B
control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
address = struct.pack("16sH2s4s8x", b"lo", socket.AF_INET, b"\0\0", socket.inet_aton("10.9.8.7"))
attempt("address", lambda: fcntl.ioctl(control, SIOCSIFADDR, address))
attempt("flags", lambda: fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", 0)))
SO_MARK = 36
attempt("mark", lambda: control.setsockopt(socket.SOL_SOCKET, SO_MARK, 1))


def new_link():
    RTM_NEWLINK, NLM_F_REQUEST_ACK_CREATE = 16, 0x605
    name = struct.pack("HH8s", 12, 3, b"evil0\0\0\0")
    kind = struct.pack("HH8s", 10, 1, b"dummy\0\0\0")
    info = struct.pack("HH", 4 + len(kind), 18) + kind
    body = struct.pack("BxHiII", 0, 0, 0, 0, 0) + name + info
    link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    link.send(struct.pack("IHHII", 16 + len(body), RTM_NEWLINK, NLM_F_REQUEST_ACK_CREATE, 1, 0) + body)
    answer = link.recv(4096)
    error = struct.unpack_from("i", answer, 16)[0]
    if error:
        raise OSError(-error, "refused")


attempt("new link", new_link)
