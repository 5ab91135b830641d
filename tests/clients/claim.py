#!/usr/bin/python3
"""Says whom a connection is for, in a way that no ordinary tool does, and says what came of it.

claim.py WAY ADDRESS PORT NAME
    tls          a TLS handshake for NAME, whoever the certificate is for
    tls-octets   the same, its hello sent octet by octet
    tls-hidden   a hello for NAME with an encrypted one in it (ECH), and the first octet of the answer
    tls-large    the same, with an extension before the name that nearly fills the hello (ALPN of many protocols)
    host         an HTTP request for NAME
    host-octets  the same, sent octet by octet
    sendfile, splice, fastopen, mptcp, zerocopy   the same, sent in that way
    fastopen-tls a TLS handshake for NAME whose hello goes with the first packet, where a cookie is there
    crowd        an HTTP request for NAME, while more connections than are held at once have said nothing yet
    late         an HTTP request for NAME whose sending began before the connection was made
    proxied      requests to a proxy on one connection: each further argument is a host; all are written at once
    echo         an HTTP request for NAME to a server that sends everything back, and behind it much in every way there
                 is to send, both ways at once, until the sending half is shut down
    echo-waiting the same, by a thread that waits for the answer from before anything is sent
    interrupted  an HTTP request for NAME, waited for without a time limit while a signal comes each 2 ms
    tunnel       CONNECT to NAME:443 through a proxy, and TLS in the tunnel for the further argument

Prints `reached` with what was read, or the name of the error. Exit code 0 or 1.
"""

import errno
import os
import resource
import select
import signal
import socket
import ssl
import struct
import sys
import tempfile
import threading
import time

way, address, port, name, further = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5:]
head = f"GET / HTTP/1.1\r\nAccept: */*\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode()


def connected(protocol=0):
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol)
    sock.settimeout(10)
    sock.connect((address, port))
    return sock


def answer(sock):
    text = b""
    while chunk := sock.recv(65536):
        text += chunk
        if b"hello from" in text:
            break
    return text.decode(errors="replace")


def handshake(sock, name, send, large=False):
    """By hand, so that the test decides how its octets are sent."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if large:
        context.set_alpn_protocols(["x" * 255] * 56 + ["http/1.1"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            if octets := outgoing.read():
                send(sock, octets)
            octets = sock.recv(65536)
            if not octets:
                raise ConnectionResetError(errno.ECONNRESET, "closed")
            incoming.write(octets)
    tls.write(head)
    sock.sendall(outgoing.read())
    text = b""
    while b"hello from" not in text:
        try:
            text += tls.read(65536)
        except ssl.SSLWantReadError:
            octets = sock.recv(65536)
            if not octets:
                break
            incoming.write(octets)
    return text.decode(errors="replace")


def hello(name):
    """The hello that a client would send."""
    context = ssl.create_default_context()
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def with_hidden(octets):
    """With one more extension at its end (draft-ietf-tls-esni, 5): an outer hello, its inner one of random octets."""
    inner = os.urandom(144)
    body = struct.pack(">BHHB", 0, 1, 1, 7) + struct.pack(">H", 32) + os.urandom(32) + struct.pack(">H", len(inner)) + inner
    extension = struct.pack(">HH", 0xFE0D, len(body)) + body
    # Behind the record's and the handshake's header: a version, 32 octets, then three lists with their lengths.
    at = 9 + 2 + 32
    at += 1 + octets[at]
    at += 2 + struct.unpack_from(">H", octets, at)[0]
    at += 1 + octets[at]
    more = lambda offset, width: (int.from_bytes(octets[offset : offset + width], "big") + len(extension)).to_bytes(width, "big")
    return (
        octets[:3] + more(3, 2) + octets[5:6] + more(6, 3) + octets[9:at] + more(at, 2) + octets[at + 2 :] + extension
    )


def whole(sock, octets):
    sock.sendall(octets)


def one_by_one(sock, octets):
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for at in range(len(octets)):
        sock.sendall(octets[at : at + 1])


def with_first_packet():
    begun = []

    def send(sock, octets):
        if begun:
            return sock.sendall(octets)
        begun.append(sock.sendto(octets, socket.MSG_FASTOPEN, (address, port)))
        assert begun == [len(octets)]

    return send


def from_file(sock, octets):
    with tempfile.TemporaryFile() as file:
        file.write(octets)
        file.flush()
        assert os.sendfile(sock.fileno(), file.fileno(), 0, len(octets)) == len(octets)


def spliced(sock, octets):
    reader, writer = os.pipe()
    assert os.write(writer, octets) == len(octets)
    left = len(octets)
    while left:
        left -= os.splice(reader, sock.fileno(), left)


def zero_copied(sock, octets):
    sock.setsockopt(socket.SOL_SOCKET, 60, 1)
    assert sock.send(octets, 0x4000000) == len(octets)


def http(sock, send):
    send(sock, head)
    return answer(sock)


def completed(sock):
    """Waits until the kernel says that it needs what was sent without a copy no longer."""
    poll = select.poll()
    poll.register(sock, 0)
    assert poll.poll(10000), "no completion"
    _, ancillary, _, _ = sock.recvmsg(1, 512, socket.MSG_ERRQUEUE)
    assert ancillary


def echo(sock):
    sent, back = [], []
    # A socket with a time limit does not wait in sendfile and splice.
    sock.setblocking(True)
    something = threading.Event()

    def listen():
        while chunk := sock.recv(65536):
            back.append(chunk)
            something.set()

    listener = threading.Thread(target=listen)

    def say(octets, send=sock.sendall):
        send(octets)
        sent.append(octets)

    if way == "echo-waiting":
        listener.start()
        # Until it waits.
        while open(f"/proc/self/task/{listener.native_id}/stat").read().rsplit(")", 1)[1].split()[0] != "S":
            time.sleep(0.001)
        time.sleep(0.01)
        say(head)
        assert something.wait(10), "no answer"
    else:
        say(head)
        listener.start()
    block = os.urandom(1 << 20)
    for size in (1, 100, 1448, 65536, 1 << 20):
        say(block[:size])
    say(b"".join([block[:7], block[7:5000]]), lambda octets: sock.sendmsg([octets[:7], octets[7:]]))
    with tempfile.TemporaryFile() as file:
        file.write(block)
        file.flush()
        at = 0
        while at < len(block):
            at += os.sendfile(sock.fileno(), file.fileno(), at, len(block) - at)
        sent.append(block)
    say(block[:60000], lambda octets: spliced(sock, octets))
    sock.setsockopt(socket.SOL_SOCKET, 60, 1)
    say(block[:65536], lambda octets: sock.sendall(octets, 0x4000000))
    completed(sock)
    poll = select.epoll()
    poll.register(sock.fileno(), select.EPOLLOUT)
    for _ in range(64):
        assert poll.poll(10), "never writable"
        count = sock.send(block[:50000], socket.MSG_DONTWAIT)
        sent.append(block[:count])
    sock.shutdown(socket.SHUT_WR)
    listener.join(60)
    assert b"".join(sent) == b"".join(back), (sum(map(len, sent)), sum(map(len, back)))
    state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 5))
    sock.close()
    return f"everything back, state {state[0]}"


def interrupted(sock):
    # A socket with a time limit waits in poll, and not in recv.
    sock.setblocking(True)
    signal.signal(signal.SIGALRM, lambda *_: None)
    whole(sock, head)
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    text = answer(sock)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return text


def go():
    if way.startswith("echo"):
        return echo(connected())
    if way == "interrupted":
        return interrupted(connected())
    if way == "tls-hidden":
        sock = connected()
        whole(sock, with_hidden(hello(name)))
        return f"record of type {sock.recv(1)[0]}"
    if way == "crowd":
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        _silent = [connected() for _ in range(4200)]
        return http(connected(), whole)
    if way.startswith("tls"):
        send = one_by_one if way == "tls-octets" else whole
        return handshake(connected(), name, send, way == "tls-large")
    if way == "fastopen":
        # Blocking: a time limit would have the kernel answer EINPROGRESS.
        sock = socket.socket()
        assert sock.sendto(head, socket.MSG_FASTOPEN, (address, port)) == len(head)
        return answer(sock)
    if way == "fastopen-tls":
        return handshake(socket.socket(), name, with_first_packet())
    if way == "late":
        sock = socket.socket()
        sock.setblocking(False)
        try:
            sock.connect((address, port))
        except BlockingIOError:
            pass
        sock.setblocking(True)
        return http(sock, whole)
    if way == "proxied":
        sock = connected()
        hosts = [name, *further]
        whole(sock, "".join(f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n" for host in hosts).encode())
        text = ""
        while text.count("hello from") < len(hosts):
            chunk = sock.recv(65536)
            if not chunk:
                break
            text += chunk.decode(errors="replace")
        return text
    if way == "tunnel":
        sock = connected()
        whole(sock, f"CONNECT {name}:443 HTTP/1.1\r\nHost: {name}:443\r\n\r\n".encode())
        text = b""
        while b"\r\n\r\n" not in text:
            chunk = sock.recv(1)
            if not chunk:
                break
            text += chunk
        assert b" 200 " in text.splitlines()[0], text
        return handshake(sock, further[0], whole)
    sends = {
        "host": whole,
        "host-octets": one_by_one,
        "sendfile": from_file,
        "splice": spliced,
        "zerocopy": zero_copied,
        "mptcp": whole,
    }
    return http(connected(262 if way == "mptcp" else 0), sends[way])


try:
    print("reached", go())
except TimeoutError as error:
    # The kernel's has a number.
    print("ETIMEDOUT" if error.errno else "timeout")
    sys.exit(1)
except OSError as error:
    print(errno.errorcode.get(error.errno, error))
    sys.exit(1)
