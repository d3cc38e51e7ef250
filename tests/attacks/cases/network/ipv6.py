"""Goes out over IPv6: the metadata service, a public resolver, everybody on the link."""
import socket

from attempt import attempt

for address in ("fd00:ec2::254", "2001:4860:4860::8888", "fe80::1", "ff02::1", "::ffff:169.254.169.254"):
    def connect():
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as out:
            out.settimeout(2)
            out.connect((address, 80, 0, 1 if address.startswith("fe80") else 0))
    if not address.startswith("ff"):
        attempt(address, connect)
    attempt(f"{address} by datagram",
            lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(b"x", (address, 53)))
