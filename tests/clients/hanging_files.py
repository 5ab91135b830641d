#!/usr/bin/python3
"""A file system whose server is down: whoever reaches for anything in it waits until this program ends.

hanging_files.py DIRECTORY

Prints `hangs` once it is mounted. What reaches for it is taken in and never answered, as by a server that died with
requests at hand: those who wait cannot even be killed.
"""

import ctypes
import os
import struct
import sys

INIT = 26
place = sys.argv[1].encode()
device = os.open("/dev/fuse", os.O_RDWR)
libc = ctypes.CDLL(None, use_errno=True)
options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
if libc.mount(b"hanging", place, b"fuse.hanging", 0, options) != 0:
    sys.exit(os.strerror(ctypes.get_errno()))
while True:
    try:
        request = os.read(device, 1 << 20)
    except OSError as error:
        sys.exit(error.strerror)
    _, operation, unique = struct.unpack_from("=IIQ", request)
    if operation != INIT:
        continue
    # Version 7.22: the shorter form of the answer, without any features.
    answer = struct.pack("=IIIIHHI", 7, 22, 0, 0, 16, 12, 65536)
    os.write(device, struct.pack("=IiQ", 16 + len(answer), 0, unique) + answer)
    print("hangs", flush=True)
