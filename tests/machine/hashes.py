#!/usr/bin/env python3
"""A web server on 127.0.0.1:9000 that answers a PUT with the SHA-256 of what it received."""
import hashlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hashes(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        left, digest = int(self.headers["Content-Length"]), hashlib.sha256()
        while left:
            piece = self.rfile.read(min(left, 65536))
            if not piece:
                return
            digest.update(piece)
            left -= len(piece)
        answer = digest.hexdigest().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


ThreadingHTTPServer(("127.0.0.1", 9000), Hashes).serve_forever()
