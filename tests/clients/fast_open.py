#!/usr/bin/python3
"""A server of HTTP that answers every request with `hello from NAME`, and takes data with the first packet (RFC 7413).

fast_open.py NAME PORT

Prints the head of each request.
"""

import socket
import sys

name, port = sys.argv[1], int(sys.argv[2])
listener = socket.create_server(("", port))
# linux/tcp.h: TCP_FASTOPEN, how many may be waiting.
listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
while True:
    client, _ = listener.accept()
    try:
        client.settimeout(5)
        head = b""
        while b"\r\n\r\n" not in head and (octets := client.recv(4096)):
            head += octets
        if head:
            print(head.decode(errors="replace"), flush=True)
            text = f"hello from {name}\n"
            client.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n{text}".encode())
    except OSError:
        pass
    client.close()
