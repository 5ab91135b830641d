#!/usr/bin/python3
"""Sends what it is given on one connection, each when something came back for the one before, and says what came of it.

asks.py HOST PORT HEAD...
    A HEAD is written as in Python's source (`\\r\\n`). Prints a line for each: `answered`, or the name of the error.
"""

import errno
import socket
import sys

connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10)
for head in sys.argv[3:]:
    try:
        connection.sendall(head.encode().decode("unicode_escape").encode())
        connection.recv(65536)
        print("answered")
    except OSError as error:
        print(errno.errorcode[error.errno])
