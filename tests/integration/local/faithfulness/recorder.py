"""A server in front of a grid that passes requests on and keeps them, to see what a client sends."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from .description import Request

PASSED_BACK = ("content-type", "last-modified")


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its answer."""

    request: Request
    status: int
    content_type: str
    answer: bytes


class Recorder:
    """Passes requests on to a grid.

    :param target: base URL of the grid.
    """

    def __init__(self, target: str) -> None:
        self.exchanges: list[Exchange] = []
        self._target = target
        self._client = httpx.Client(timeout=60)
        self._lock = threading.Lock()

    def exchange(self, method: str, path: str, headers: dict[str, str], body: bytes) -> httpx.Response:
        """Pass a request on, and keep it with its answer."""
        answer = self._client.request(method, self._target + path, headers=headers, content=body)
        kind = headers.get("content-type")
        decoded: Any = json.loads(body) if kind == "application/json" and body and body[:1] == b"{" else body
        request = Request(method, path, kind, decoded)
        with self._lock:
            self.exchanges.append(
                Exchange(request, answer.status_code, answer.headers.get("content-type", ""), answer.content)
            )
        return answer


@contextmanager
def recorder(target: str) -> Iterator[tuple[str, Recorder]]:
    """Run a recorder in front of a grid; the value is its URL and itself."""
    kept = Recorder(target)

    class Handler(BaseHTTPRequestHandler):
        def _pass_on(self) -> None:
            headers = {k.lower(): v for k, v in self.headers.items() if k.lower() not in ("host", "content-length")}
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer = kept.exchange(self.command, self.path, headers, body)
            self.send_response(answer.status_code)
            for name in PASSED_BACK:
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = do_PUT = _pass_on  # noqa: N815 - names of http.server

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", kept
        finally:
            server.shutdown()
            thread.join()
