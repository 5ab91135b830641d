#!/usr/bin/python3
"""Looks names up over TCP in ways that no ordinary tool does, and says what came of it.

dns_tcp.py [OPTION...] SERVER NAME...

    --split         every octet in a segment of its own
    --mapped        from an IPv6 socket, to the v4-mapped address of the server
    --half          say that nothing more comes, behind the last query
    --raw HEX       send this message instead of a query, framed
    --connect PORT  connect to the first address that each answer gave, as soon as it is there
    --peer          say whom the socket is connected to
    --port PORT     another port than 53

All queries go out at once (RFC 7766: pipelined). For each answer, in the order of their arrival, prints
`NAME RCODE ADDRESSES...`; then how the connection ended, should it end: `closed`, `reset`, `refused`, `silent`.
"""

import argparse
import ipaddress
import socket
import struct
import sys

parser = argparse.ArgumentParser()
parser.add_argument("--split", action="store_true")
parser.add_argument("--mapped", action="store_true")
parser.add_argument("--half", action="store_true")
parser.add_argument("--raw")
parser.add_argument("--connect", type=int)
parser.add_argument("--peer", action="store_true")
parser.add_argument("--port", type=int, default=53)
parser.add_argument("server")
parser.add_argument("names", nargs="*")
given = parser.parse_args()


def labels(name):
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def query(number, name):
    return struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, 0) + labels(name) + struct.pack(">HH", 1, 1)


def skip(message, at):
    while message[at]:
        if message[at] >= 0xC0:
            return at + 2
        at += 1 + message[at]
    return at + 1


def addresses(message):
    found, at = [], skip(message, 12) + 4
    for _ in range(struct.unpack(">H", message[6:8])[0]):
        at = skip(message, at)
        kind, _, _, length = struct.unpack(">HHIH", message[at : at + 10])
        data = message[at + 10 : at + 10 + length]
        if kind == 1:
            found.append(str(ipaddress.ip_address(data)))
        at += 10 + length
    return found


def whole(stream, length):
    octets = b""
    while len(octets) < length:
        more = stream.recv(length - len(octets))
        if not more:
            raise EOFError
        octets += more
    return octets


messages = [bytes.fromhex(given.raw)] if given.raw is not None else []
messages += [query(number, name) for number, name in enumerate(given.names, 1)]
stream_octets = b"".join(struct.pack(">H", len(message)) + message for message in messages)

server = "::ffff:" + given.server if given.mapped else given.server
v6 = ":" in server
stream = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_STREAM)
stream.settimeout(8)
try:
    stream.connect((server, given.port))
    if given.peer:
        print("peer", stream.getpeername()[0], stream.getpeername()[1])
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if given.split:
        for octet in stream_octets:
            stream.send(bytes([octet]))
    else:
        stream.sendall(stream_octets)
    if given.half:
        stream.shutdown(socket.SHUT_WR)
    for _ in messages:
        message = whole(stream, struct.unpack(">H", whole(stream, 2))[0])
        number = struct.unpack(">H", message[:2])[0]
        name = given.names[number - 1] if 0 < number <= len(given.names) else "?"
        found = addresses(message) if len(message) > 12 else []
        print(name, message[3] & 15, *found)
        if given.connect and found:
            with socket.create_connection((found[0], given.connect), 3) as reached:
                reached.sendall(b"ping")
                print("reached", name, whole(reached, 4).decode())
    if given.half:
        whole(stream, 1)
except (EOFError, BrokenPipeError):
    print("closed")
except ConnectionResetError:
    print("reset")
except ConnectionRefusedError:
    print("refused")
    sys.exit(1)
except TimeoutError:
    print("silent")
    sys.exit(1)
