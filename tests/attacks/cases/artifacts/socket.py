"""Leaves a listening socket."""
import socket

server = socket.socket(socket.AF_UNIX)
server.bind("/output/socket")
server.listen()
