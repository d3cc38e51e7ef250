"""Connects to services that listen on the host's loopback interface."""
import json
import socket

from attempt import attempt

told = json.load(open("/input/data.json"))
for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "127.0.1.1"), (socket.AF_INET6, "::1")):
    def connect():
        with socket.socket(family, socket.SOCK_STREAM) as out:
            out.settimeout(2)
            out.connect((address, told["tcp_port"]))
    attempt(f"{address}", connect)
attempt("abstract", lambda: socket.socket(socket.AF_UNIX).connect("\0" + told["socket"]))
# Nobody answers a datagram; whether it came is seen on the host.
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.sendto(b"from the sandbox", ("127.0.0.1", told["udp_port"]))
