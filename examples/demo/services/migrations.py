#!/usr/bin/python3
"""The migrations service: asked to run the migrations of a database, it fetches them from the forge."""

import http.server
import socket
import urllib.request


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        try:
            with urllib.request.urlopen("https://github.com/fleet/migrations/accounts.sql", timeout=10) as answer:
                text, code = f"migrations: {len(answer.read().splitlines())} applied\n", 200
        except OSError as error:
            text, code = f"migrations: cannot fetch them: {error}\n", 502
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6


Server(("::", 8080), Handler).serve_forever()
