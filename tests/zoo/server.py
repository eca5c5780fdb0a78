"""A server of files on this machine, with the faults of those far away."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers)))
        self.server.answers.get(self.path, refuse(404))(self)

    def send(self, body: bytes, status: int = 200, **headers: object) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Answers to paths, and the requests that came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Answer] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


@contextmanager
def serve() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def give(data: bytes, *, ranges: bool = True, tag: str | None = None, cuts: int | None = None, delay: float = 0):
    """Serve a file by its ETag, in ranges.

    Args:
        data: the file.
        ranges: False: ignore them.
        tag: its ETag; None: its hash.
        cuts: end each transfer after this many bytes, although more were promised.
        delay: seconds before the body.
    """
    tag = tag or f'"{hashlib.sha256(data).hexdigest()[:16]}"'

    def answer(handler: Handler) -> None:
        wanted, valid = handler.headers.get("Range"), handler.headers.get("If-Range", tag) == tag
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and ranges and valid else 0
        if start >= len(data):
            handler.send(b"", 416, Content_Range=f"bytes */{len(data)}")
            return
        handler.send_response(206 if start else 200)
        handler.send_header("ETag", tag)
        handler.send_header("Content-Length", str(len(data) - start))
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.end_headers()
        time.sleep(delay)
        handler.wfile.write(data[start : start + cuts] if cuts else data[start:])

    return answer


def refuse(status: int) -> Answer:
    return lambda handler: handler.send(b"no", status)


def show_page(kind: str = "text/html; charset=utf-8") -> Answer:
    page = b"\n<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title></html>"
    return lambda handler: handler.send(page, Content_Type=kind)


def redirect(url: str) -> Answer:
    return lambda handler: handler.send(b"", 302, Location=url)


def in_turn(*answers: Answer) -> Answer:
    """Give each answer once, and the last one for ever."""
    left = list(answers)
    return lambda handler: (left.pop(0) if len(left) > 1 else left[0])(handler)
