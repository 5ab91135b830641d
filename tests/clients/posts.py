#!/usr/bin/python3
"""Keeps what is posted to it.

posts.py PORT DIRECTORY
    Each body goes, unpacked, into a file of the directory: `1-v1-traces` for the first one, posted to /v1/traces.
"""

import gzip
import http.server
import itertools
import os
import sys

port, directory = int(sys.argv[1]), sys.argv[2]
number = itertools.count(1)


class Kept(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        name = os.path.join(directory, f"{next(number)}{self.path.replace('/', '-')}")
        with open(name + ".new", "wb") as out:
            out.write(body)
        os.rename(name + ".new", name)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


http.server.HTTPServer(("", port), Kept).serve_forever()
