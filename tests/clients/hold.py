#!/usr/bin/python3
"""Holds a connection open, and says what has become of it whenever it is asked.

hold.py WAY ADDRESS PORT
    tcp, udp   connected
    loose      a UDP socket that is connected to nothing

Prints `open`. Then, each time that a file `ask` is there, takes it away, sends a word to be echoed, and prints
`alive`, or the name of the error. Ends with a file `stop`.
"""

import errno
import os
import socket
import sys
import time

way, peer = sys.argv[1], (sys.argv[2], int(sys.argv[3]))
held = socket.socket(socket.AF_INET, socket.SOCK_STREAM if way == "tcp" else socket.SOCK_DGRAM)
held.settimeout(10)
if way == "loose":
    held.bind(("", 0))
else:
    held.connect(peer)
print("open", flush=True)
while not os.path.exists("stop"):
    if os.path.exists("ask"):
        os.remove("ask")
        try:
            if way == "loose":
                held.sendto(b"ping", peer)
            else:
                held.send(b"ping")
            print("alive" if held.recv(64) == b"ping" else "closed", flush=True)
        except OSError as error:
            print(errno.errorcode.get(error.errno, error), flush=True)
    time.sleep(0.02)
