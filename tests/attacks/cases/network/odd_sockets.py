"""Opens sockets that see or forge packets, or lead around the network."""
import socket

from attempt import attempt

SOCKETS = {
    "raw IPv4": (socket.AF_INET, socket.SOCK_RAW, 1), "raw IPv6": (socket.AF_INET6, socket.SOCK_RAW, 58),
    "packet": (17, socket.SOCK_RAW, 0x300), "vsock": (40, socket.SOCK_STREAM, 0), "crypto": (38, 5, 0),
    "bluetooth": (31, socket.SOCK_RAW, 1), "CAN": (29, socket.SOCK_RAW, 1), "TIPC": (30, socket.SOCK_STREAM, 0),
    "XDP": (44, socket.SOCK_RAW, 0), "key": (15, socket.SOCK_RAW, 2), "RDS": (21, 5, 0),
}
for what, arguments in SOCKETS.items():
    attempt(what, lambda: socket.socket(*arguments).close())
