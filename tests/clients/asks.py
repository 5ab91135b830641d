#!/usr/bin/python3
"""Sends what it is given on one connection, each when something came back for the one before, and says what came of it.

asks.py HOST PORT HEAD...
    A HEAD is written as in Python's source (`\\r\\n`); `body:N` is N octets, in pieces of different lengths, each of which is to come
    back. Prints a line for each: `answered`, or the name of the error.
"""

import errno
import socket
import sys

connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10)


def body(left):
    # What looks like a request's first line within it is none.
    block = b"GET / HTTP/1.1\r\nHost: github.com\r\n\r\n" * 4096
    turn = 0
    while left:
        piece = block[: min(left, 1 + turn * 7919 % 150000)]
        connection.sendall(piece)
        back = len(piece)
        while back:
            got = len(connection.recv(back))
            if not got:
                raise ConnectionResetError(errno.ECONNRESET, "closed")
            back -= got
        left -= len(piece)
        turn += 1


for head in sys.argv[3:]:
    try:
        if head.startswith("body:"):
            body(int(head.removeprefix("body:")))
        else:
            connection.sendall(head.encode().decode("unicode_escape").encode())
            connection.recv(65536)
        print("answered")
    except OSError as error:
        print(errno.errorcode[error.errno])
