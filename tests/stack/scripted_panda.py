"""An HTTP server on loopback whose answers a test writes, for faults that no real server produces on demand."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass
class Seen:
    """One request that arrived."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    peer: str | None = None
    """Common name of the client's certificate, on TLS."""

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


Script = Callable[[BaseHTTPRequestHandler, Seen], None]


@dataclass
class ScriptedPanda:
    """Requests by path; each path has one script, or a list of which the last stays."""

    url: str = ""
    scripts: dict[str, list[Script]] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def on(self, path: str, *scripts: Script) -> None:
        """Answer requests to ``/api/v1/<path>`` (or an absolute path) by these scripts, one after another."""
        self.scripts[path if path.startswith("/") else f"/api/v1/{path}"] = list(scripts)

    def calls(self, path: str) -> list[Seen]:
        """Return the requests to a path."""
        full = path if path.startswith("/") else f"/api/v1/{path}"
        return [seen for seen in self.seen if seen.path == full]

    def script(self, seen: Seen) -> Script:
        """Take the script of a request."""
        with self.lock:
            self.seen.append(seen)
            scripts = self.scripts.get(seen.path, [status(404, "<html><title>404 Not Found</title></html>")])
            return scripts.pop(0) if len(scripts) > 1 else scripts[0]


def body(content: bytes | str, code: int = 200, content_type: str = "text/plain") -> Script:
    """Answer with these bytes."""
    raw = content.encode() if isinstance(content, str) else content

    def script(handler: BaseHTTPRequestHandler, seen: Seen) -> None:
        handler.send_response(code)
        handler.send_header("Content-Type", content_type)
        handler.send_header("Content-Length", str(len(raw)))
        handler.end_headers()
        if seen.method != "HEAD":
            handler.wfile.write(raw)

    return script


def envelope(data: Any = None, *, success: bool = True, message: str = "") -> Script:
    """Answer with PanDA's envelope."""
    return body(json.dumps({"success": success, "message": message, "data": data}))


def refusal(message: str, data: Any = None) -> Script:
    """Answer with a business error at HTTP 200."""
    return envelope(data, success=False, message=message)


def status(code: int, text: str = "") -> Script:
    """Answer with an HTTP error."""
    return body(text, code)


def lose(after: Callable[[Seen], None] = lambda _: None) -> Script:
    """Take the request, do ``after``, and close the connection without an answer."""

    def script(handler: BaseHTTPRequestHandler, seen: Seen) -> None:
        after(seen)
        handler.close_connection = True
        handler.connection.close()

    return script


def trickle(panda: ScriptedPanda, *, head: bool) -> Script:
    """Send a byte now and then, of the header or of the body, until the test is over."""

    def script(handler: BaseHTTPRequestHandler, seen: Seen) -> None:
        handler.close_connection = True
        start = b"HTTP/1.1 200 OK\r\nX-Slow: " if head else b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{"
        with contextlib.suppress(OSError):
            handler.wfile.write(start)
            while not panda.stopping.wait(0.05):
                handler.wfile.write(b" ")

    return script


def stall(panda: ScriptedPanda) -> Script:
    """Never answer."""

    def script(handler: BaseHTTPRequestHandler, seen: Seen) -> None:
        handler.close_connection = True
        panda.stopping.wait()

    return script


def slowly(seconds: float, script: Script) -> Script:
    """Answer after a while."""

    def slow(handler: BaseHTTPRequestHandler, seen: Seen) -> None:
        time.sleep(seconds)
        script(handler, seen)

    return slow


def _peer(connection: socket.socket) -> str | None:
    certificate = connection.getpeercert() if isinstance(connection, ssl.SSLSocket) else None
    subject = certificate.get("subject", ()) if certificate else ()
    return next((value for part in subject for name, value in part if name == "commonName"), None)


@contextlib.contextmanager
def scripted_panda(tls: ssl.SSLContext | None = None) -> Iterator[ScriptedPanda]:
    """A running scripted server, on TLS with these settings if they are given."""
    panda = ScriptedPanda()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            parts = urlsplit(self.path)
            seen = Seen(
                method=self.command,
                path=parts.path,
                query=parse_qs(parts.query),
                headers=dict(self.headers.items()),
                body=self.rfile.read(length),
                peer=_peer(self.connection),
            )
            with contextlib.suppress(ConnectionError):
                panda.script(seen)(self, seen)

        do_GET = do_POST = do_PUT = do_HEAD = _answer  # noqa: N815 - names that http.server looks for

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that breaks off a handshake is part of some tests."""

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        # The handshake is left to the thread of the connection.
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    panda.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield panda
    finally:
        panda.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()
