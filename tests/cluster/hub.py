"""A model hub on loopback for the tests of `shoal pull`: the part of the Hugging Face Hub's API that it uses, and whatever a
broken or hostile server may do. Each Hub is one server with a log of the requests that it saw."""

import hashlib
import json
import re
import ssl
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def tiny_gguf(seed=0, floats=1 << 16):
    """A GGUF file with an architecture, a context length and one F32 tensor."""

    def text(value):
        return struct.pack("<Q", len(value)) + value.encode()

    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 2)
    header += text("general.architecture") + struct.pack("<I", 8) + text("llama")
    header += text("llama.context_length") + struct.pack("<II", 4, 2048)
    header += text("token_embd.weight") + struct.pack("<IQIQ", 1, floats, 0, 0)
    header += b"\0" * (-len(header) % 32)
    return header + b"".join(struct.pack("<f", (i * 7 + seed) % 1000) for i in range(floats))


class Hub:
    def __init__(self, files=None, context=None, cdn=None):
        """`files`: "user/repo" -> {path: bytes}. `context`: ssl.SSLContext. `cdn`: a Hub that downloads are redirected
        to."""
        self.files = files or {}
        self.cdn = cdn
        self.requests = []  # (path, Range, Authorization)
        self.status = []  # answered first, one a request: (status, headers) or None to answer as usual
        self.listing = None  # bytes sent for a listing
        self.sha256 = {}  # path -> what the listing says instead
        self.size = {}  # path -> what the listing says instead
        self.cut_after = []  # bytes of the body after which a download breaks, one a download
        self.pace = None  # (bytes, seconds): sends so many, then waits
        self.ranges = True
        self.redirect = None  # Location of every download
        self.page = None  # files a page
        self.altered = None  # function of the body of a download
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments):
                pass

            def do_GET(self):
                hub.requests.append((self.path, self.headers["Range"], self.headers["Authorization"]))
                try:
                    hub.answer(self)
                except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
                    pass
                self.close_connection = True

        class Server(ThreadingHTTPServer):
            def handle_error(self, request, client_address):
                pass  # a client that ends the connection is part of what is tested

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if context:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True,
                                                     do_handshake_on_connect=False)
        self.scheme = "https" if context else "http"
        self.port = self.server.server_address[1]
        self.url = f"{self.scheme}://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def downloads(self):
        return [request for request in self.requests if "/resolve/" in request[0]]

    def answer(self, handler):
        if self.status:
            answer = self.status.pop(0)
            if answer:
                return self.send(handler, answer[0], b"", answer[1])
        listing = re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/main(\?.*)?", handler.path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/main/(.+)", handler.path)
        if listing and listing[1] in self.files:
            return self.list(handler, listing[1])
        if file and file[2] in self.files.get(file[1], {}):
            return self.download(handler, file[1], file[2])
        return self.send(handler, 404, b"not here")

    def list(self, handler, repository):
        if self.listing is not None:
            return self.send(handler, 200, self.listing)
        entries = [{"type": "file", "path": "README.md", "size": 5, "oid": "0" * 40}]
        for path, body in sorted(self.files[repository].items()):
            size = self.size.get(path, len(body))
            sha256 = self.sha256.get(path, hashlib.sha256(body).hexdigest())
            entries.append({"type": "file", "path": path, "size": size, "oid": "0" * 40,
                            "lfs": {"oid": sha256, "size": size, "pointerSize": 134}})
        headers = {}
        if self.page:
            start = int((re.search(r"cursor=(\d+)", handler.path) or [0, 0])[1])
            if start + self.page < len(entries):
                base = handler.path.split("&cursor")[0]
                headers["Link"] = f'<{self.url}{base}&cursor={start + self.page}>; rel="next"'
            entries = entries[start:start + self.page]
        return self.send(handler, 200, json.dumps(entries).encode(), headers)

    def download(self, handler, repository, path):
        if self.redirect:
            return self.send(handler, 302, b"", {"Location": self.redirect})
        if self.cdn:
            return self.send(handler, 302, b"", {"Location": f"{self.cdn.url}{handler.path}?signature=secret"})
        body = self.files[repository][path]
        if self.altered:
            body = self.altered(body)
        first, status, headers = 0, 200, {}
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers["Range"] or "")
        if asked and self.ranges:
            first = int(asked[1])
            if first >= len(body):
                return self.send(handler, 416, b"")
            status = 206
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
        return self.send(handler, status, body[first:], headers, self.cut_after.pop(0) if self.cut_after else None)

    def send(self, handler, status, body, headers=None, cut=None):
        handler.send_response(status)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if self.pace and "/resolve/" in handler.path:
            for start in range(0, len(body), self.pace[0]):
                handler.wfile.write(body[start:start + self.pace[0]])
                handler.wfile.flush()
                time.sleep(self.pace[1])
            return
        handler.wfile.write(body if cut is None else body[:cut])
        handler.wfile.flush()
