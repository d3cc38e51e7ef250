"""Fills sockets that nobody reads, whose buffers are the kernel's memory."""
import socket

hoard = []
stuck = b"x" * (1 << 20)
while True:
    try:
        near, far = socket.socketpair()
    except OSError:
        break
    hoard += [near, far]
    for end in (near, far):
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 24)
        try:
            while True:
                end.send(stuck)
        except BlockingIOError:
            pass
print(f"sockets: {len(hoard)}")
