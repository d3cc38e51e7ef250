"""Connects to the metadata address, the host's addresses, gateways and name servers."""
import json
import socket

from attempt import attempt

told = json.load(open("/input/data.json"))
for address in told["addresses"]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for port in (80, told["tcp_port"]):
        def connect():
            with socket.socket(family, socket.SOCK_STREAM) as out:
                out.settimeout(2)
                out.connect((address, port))
        attempt(f"{address} {port}", connect)
    attempt(f"{address} by datagram", lambda: socket.socket(family, socket.SOCK_DGRAM).sendto(b"x", (address, 53)))
