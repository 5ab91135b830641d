#!/usr/bin/python3
"""Reaches for one destination in a way that hardly any tool takes, and says what came of it.

odd.py WAY ADDRESS PORT [ALLOWED]
    options-tcp, options-udp    with an option in the IPv4 header, or a destination option behind the IPv6 header
    hop-by-hop-udp              with a hop-by-hop option behind the IPv6 header
    fragments                   a datagram that is larger than what goes into one packet
    sendmmsg                    two datagrams in one call: to ALLOWED, then to ADDRESS
    anew-tcp, anew-udp          from a socket that was connected to ALLOWED, and disconnected (AF_UNSPEC)
    zerocopy                    a datagram in memory that is not copied
    gre                         a packet of another protocol of IP (RFC 2784), from a raw socket

Prints `reached`, or the name of the error. Exit code 0 or 1.
"""

import ctypes
import errno
import ipaddress
import os
import socket
import struct
import sys

way, address, port, *rest = sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:]
v6 = ipaddress.ip_address(address).version == 6
family = socket.AF_INET6 if v6 else socket.AF_INET
libc = ctypes.CDLL(None, use_errno=True)


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def wire(host):
    """A struct sockaddr_in or sockaddr_in6."""
    packed = socket.inet_pton(family, host)
    if v6:
        return struct.pack("=H", family) + struct.pack(">HI", port, 0) + packed + struct.pack("=I", 0)
    return struct.pack("=H", family) + struct.pack(">H", port) + packed + bytes(8)


def new(kind):
    sock = socket.socket(family, kind)
    sock.settimeout(3)
    return sock


def echoed(sock, text):
    assert sock.recv(65536) == text


def options(sock, number):
    # Behind a length of nothing more, a padding of four (RFC 8200, 4.2).
    if v6:
        sock.setsockopt(socket.IPPROTO_IPV6, number, bytes([0, 0, 1, 4, 0, 0, 0, 0]))
    else:
        # Nothing, three times, and the end (RFC 791, 3.1).
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, bytes([1, 1, 1, 0]))


def send_together(sock, messages):
    """One sendmmsg(2) of these datagrams, each to its own host."""
    kept, headers = [], b""
    for host, text in messages:
        name, data = ctypes.create_string_buffer(wire(host)), ctypes.create_string_buffer(text, len(text))
        vector = ctypes.create_string_buffer(struct.pack("@PN", ctypes.addressof(data), len(text)))
        kept += [name, data, vector]
        # struct msghdr: name, its length, vectors, their number, control, its length, flags; then the octets sent.
        headers += struct.pack(
            "@PIxxxxPNPNixxxxIxxxx", ctypes.addressof(name), len(wire(host)), ctypes.addressof(vector), 1, 0, 0, 0, 0
        )
    # A first one that is refused is an error; a later one makes the count less.
    room = ctypes.create_string_buffer(headers, len(headers))
    return checked(libc.sendmmsg(sock.fileno(), room, len(messages), 0))


def disconnect(sock):
    checked(libc.connect(sock.fileno(), struct.pack("=H14x", socket.AF_UNSPEC), 16))


def go():
    if way in ("options-tcp", "options-udp", "hop-by-hop-udp"):
        sock = new(socket.SOCK_STREAM if way.endswith("tcp") else socket.SOCK_DGRAM)
        # linux/in6.h: IPV6_HOPOPTS, IPV6_DSTOPTS.
        options(sock, 54 if way.startswith("hop") else 59)
        sock.connect((address, port))
        sock.send(b"ping")
        return echoed(sock, b"ping")
    if way == "fragments":
        sock = new(socket.SOCK_DGRAM)
        if not v6:
            # linux/in.h: IP_MTU_DISCOVER, IP_PMTUDISC_DONT.
            sock.setsockopt(socket.IPPROTO_IP, 10, 0)
        sock.sendto(bytes(8000), (address, port))
        return echoed(sock, bytes(8000))
    if way == "sendmmsg":
        sock = new(socket.SOCK_DGRAM)
        count = send_together(sock, [(rest[0], b"allowed"), (address, b"denied.")])
        # Those that were sent come back, in whichever order.
        back = sorted(sock.recv(64) for _ in range(count))
        if back != [b"allowed", b"denied."]:
            # Which of them it was: alone, its error is told.
            send_together(sock, [(address, b"denied.")])
        return None
    if way.startswith("anew"):
        sock = new(socket.SOCK_STREAM if way.endswith("tcp") else socket.SOCK_DGRAM)
        sock.connect((rest[0], port))
        sock.send(b"ping")
        echoed(sock, b"ping")
        disconnect(sock)
        if way.endswith("udp"):
            sock.sendto(b"again", (address, port))
        else:
            sock.connect((address, port))
            sock.send(b"again")
        return echoed(sock, b"again")
    if way == "zerocopy":
        sock = new(socket.SOCK_DGRAM)
        # asm-generic/socket.h: SO_ZEROCOPY; linux/socket.h: MSG_ZEROCOPY.
        sock.setsockopt(socket.SOL_SOCKET, 60, 1)
        sock.sendmsg([b"ping"], [], 0x4000000, (address, port))
        return echoed(sock, b"ping")
    if way == "gre":
        sock = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_GRE)
        sock.settimeout(3)
        # Nothing besides, and a protocol for experiments.
        packet = b"\x00\x00\x88\xb5ping"
        sock.sendto(packet, (address, 0))
        while True:
            octets, who = sock.recvfrom(65536)
            if who[0] == address and octets.endswith(packet):
                return None
    raise SystemExit("odd.py: which way?")


try:
    go()
except TimeoutError:
    print("timeout")
    sys.exit(1)
except OSError as error:
    print(errno.errorcode.get(error.errno, error))
    sys.exit(1)
print("reached")
