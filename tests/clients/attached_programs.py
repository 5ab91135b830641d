#!/usr/bin/python3
"""Says how many BPF programs are attached to a cgroup, of whatever kind (BPF_PROG_QUERY).

attached_programs.py DIRECTORY
"""

import ctypes
import os
import platform
import struct
import sys

BPF_PROG_QUERY = 16
# More than there are kinds of attachment; those that are none of a cgroup's are errors.
KINDS = 64

number = {"x86_64": 321, "aarch64": 280}[platform.machine()]
libc = ctypes.CDLL(None, use_errno=True)
cgroup = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)
count = 0
for kind in range(KINDS):
    ids = ctypes.create_string_buffer(4 * 64)
    # target, kind, flags of query and attachment, ids, how many there is room for
    query = struct.pack("IIIIQI", cgroup, kind, 0, 0, ctypes.addressof(ids), 64)
    query = ctypes.create_string_buffer(query, 64)
    if libc.syscall(number, BPF_PROG_QUERY, query, len(query)) == 0:
        count += struct.unpack_from("I", query, 24)[0]
print(count)
