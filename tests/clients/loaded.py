#!/usr/bin/python3
"""Prints the BPF programs and maps of this host whose names begin with PREFIX, one a line: `program ID NAME`, `map ID NAME`.

loaded.py PREFIX

By bpf(2): BPF_*_GET_NEXT_ID, BPF_*_GET_FD_BY_ID, BPF_OBJ_GET_INFO_BY_FD. Needs CAP_SYS_ADMIN.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
OBJ_GET_INFO_BY_FD = 15
# What it is, how to go on to the next and to open one, and where in struct bpf_prog_info and bpf_map_info the name is.
KINDS = [("program", 11, 13, 64), ("map", 12, 14, 24)]
INFO = 128

libc = ctypes.CDLL(None, use_errno=True)


def bpf(command, attributes):
    """What the call returns, or None where it says that there is no such thing (any more)."""
    done = libc.syscall(BPF, command, attributes, len(attributes))
    if done >= 0:
        return done
    if ctypes.get_errno() == errno.ENOENT:
        return None
    raise OSError(ctypes.get_errno(), f"bpf command {command}: {os.strerror(ctypes.get_errno())}")


def name_of(fd, at):
    info = ctypes.create_string_buffer(INFO)
    bpf(OBJ_GET_INFO_BY_FD, ctypes.create_string_buffer(struct.pack("IIQ", fd, INFO, ctypes.addressof(info)), 16))
    return info.raw[at : at + 16].split(b"\0")[0].decode()


for kind, following, opening, at in KINDS:
    number = 0
    while True:
        attributes = ctypes.create_string_buffer(struct.pack("III", number, 0, 0), 12)
        if bpf(following, attributes) is None:
            break
        number = struct.unpack_from("I", attributes, 4)[0]
        fd = bpf(opening, ctypes.create_string_buffer(struct.pack("III", number, 0, 0), 12))
        if fd is None:
            continue
        name = name_of(fd, at)
        os.close(fd)
        if name.startswith(sys.argv[1]):
            print(kind, number, name)
