#!/usr/bin/python3
"""Runs two commands in turns, each from its start to its end, as a shell does that is there already.

turns.py TIMES PAUSE ONE OTHER
    PAUSE in seconds; ONE and OTHER are commands as lists in JSON. A line for each turn: the milliseconds of both. A command that
    fails ends it.
"""

import json
import os
import random
import sys
import time

times, pause = int(sys.argv[1]), float(sys.argv[2])
commands = [json.loads(word) for word in sys.argv[3:5]]
nowhere = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in range(3)]
# Not the same moment between two ticks of the kernel's clock each time.
moment = random.Random(1)


def took(command):
    began = time.perf_counter()
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=nowhere)
    if os.waitpid(pid, 0)[1]:
        sys.exit(f"{command} failed")
    return (time.perf_counter() - began) * 1000


for _ in range(times):
    time.sleep(pause + moment.random() * 0.01)
    print(*(took(command) for command in commands), flush=True)
