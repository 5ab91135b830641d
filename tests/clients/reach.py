#!/usr/bin/python3
"""Reaches for one destination in one way, and says what came of it.

reach.py WAY ADDRESS PORT
    tcp      connect
    mapped   connect from an IPv6 socket to the v4-mapped address
    udp      connect a UDP socket, send, and wait for the echo
    sendto   send from an unconnected UDP socket, and wait for the echo
    sendto-mapped   the same from an IPv6 socket to the v4-mapped address

Prints `reached`, or the name of the error. Exit code 0 or 1.
"""

import errno
import ipaddress
import socket
import sys

way, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
v6 = ipaddress.ip_address(address).version == 6
if way.endswith("mapped"):
    address, v6 = "::ffff:" + address, True
family = socket.AF_INET6 if v6 else socket.AF_INET
kind = socket.SOCK_STREAM if way in ("tcp", "mapped") else socket.SOCK_DGRAM
try:
    with socket.socket(family, kind) as sock:
        sock.settimeout(3)
        if way.startswith("sendto"):
            sock.sendto(b"ping", (address, port))
        else:
            sock.connect((address, port))
            if kind == socket.SOCK_DGRAM:
                sock.send(b"ping")
        if kind == socket.SOCK_DGRAM:
            assert sock.recv(64) == b"ping"
except TimeoutError:
    print("timeout")
    sys.exit(1)
except OSError as error:
    print(errno.errorcode.get(error.errno, error))
    sys.exit(1)
print("reached")
