"""An HTTP proxy on loopback in front of a real server, with faults that are switched on and off at run time.

In a test::

    with faulty_proxy(grid.url) as proxy:
        proxy.add(Fault(Kind.STATUS, path="/task/submit", count=3, status=503, retry_after="2"))
        ...
        proxy.clear()

From another process (``python -m tests.stack.faulty_proxy http://127.0.0.1:25080`` prints its addresses as a line of
JSON, and ends when its standard input does)::

    curl -X POST $control/faults -d '{"kind": "refuse", "seconds": 30}'
    curl $control/faults                   # what is on, and how often each was met
    curl -X DELETE $control/faults         # all off
    curl $control/seen                     # requests that came in

Faults are looked through in the order in which they were added; the first that fits a request is what happens to it. A
request that no fault fits is forwarded.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import http.client
import json
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from email.utils import formatdate
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

NGINX_PAGE: Final = (
    "<html>\r\n<head><title>{status} {phrase}</title></head>\r\n<body>\r\n"
    "<center><h1>{status} {phrase}</h1></center>\r\n<hr><center>nginx/1.24.0</center>\r\n</body>\r\n</html>\r\n"
)
APACHE_PAGE: Final = (
    '<!DOCTYPE HTML PUBLIC "-//IETF//DTD HTML 2.0//EN">\n<html><head>\n<title>{status} {phrase}</title>\n</head>'
    "<body>\n<h1>{phrase}</h1>\n<p>The server is temporarily unable to service your\nrequest due to "
    "maintenance downtime or capacity\nproblems. Please try again later.</p>\n</body></html>\n"
)
SIGN_IN_PAGE: Final = "<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body><form>…</form></body></html>\n"
BLOCK: Final = bytes(1024 * 1024)


class Kind(StrEnum):
    """What goes wrong."""

    REFUSE = "refuse"
    """Nobody listens, and open connections end, as while a server is restarted; for all paths."""
    DROP = "drop"
    """The request is read and the connection reset; the server never sees it."""
    LOSE = "lose"
    """The server does what was asked, and the connection is reset before a byte of its answer."""
    RESET = "reset"
    """The connection is reset after ``size`` bytes of the answer's body."""
    STALL = "stall"
    """Nothing for ``delay`` seconds, then the request is forwarded."""
    LATE = "late"
    """The request is forwarded at once, and its answer held back for ``delay`` seconds."""
    STATUS = "status"
    """An HTTP error with a page of nginx or Apache (``page``) or the text given; never forwarded."""
    ANSWER = "answer"
    """HTTP 200 with the text given (a sign-in page if none); never forwarded."""
    GARBAGE = "garbage"
    """HTTP 200 with bytes that are no text; never forwarded."""
    TRUNCATED = "truncated"
    """The first half of the server's answer, with the Content-Length of that half."""
    CUT = "cut"
    """The first half of the server's answer, with the Content-Length of the whole; then the connection is closed."""
    TRICKLE = "trickle"
    """A byte each ``delay`` seconds (1 if not given) without end; never forwarded."""
    HUGE = "huge"
    """``size`` bytes (1 GB if not given), their number not announced; never forwarded."""
    BOMB = "bomb"
    """The same, compressed."""
    REDIRECT = "redirect"
    """HTTP 302 to the address in ``text``; never forwarded."""
    TYPE = "type"
    """The server's answer, with the Content-Type in ``text``."""
    SKEW = "skew"
    """The server's answer, with a Date header ``delay`` seconds off."""
    FREEZE = "freeze"
    """GET requests get the answer that the same request got first while this is on: nothing moves any more."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    :param kind: what.
    :param path: regular expression that is searched for in path and query.
    :param method: HTTP method, or all.
    :param count: to how many requests it happens; None: to all.
    :param seconds: for how long from its addition; None: until it is cleared.
    :param status: HTTP status of :attr:`Kind.STATUS`.
    :param text: body, address or Content-Type, see the kinds.
    :param page: ``nginx`` or ``apache``: whose error page, where there is no text.
    :param retry_after: a Retry-After header, if any.
    :param delay: seconds, see the kinds.
    :param size: bytes, see the kinds.
    """

    kind: Kind
    path: str = ""
    method: str = ""
    count: int | None = None
    seconds: float | None = None
    status: int = 503
    text: str = ""
    page: str = "nginx"
    retry_after: str = ""
    delay: float = 0.0
    size: int = 0


@dataclass(frozen=True, slots=True)
class Passed:
    """One request that came in.

    :param fault: what happened to it, or an empty text.
    :param forwarded: whether the server saw it.
    """

    method: str
    path: str
    fault: str = ""
    forwarded: bool = False


class _Active:
    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.met = 0
        self.until = None if fault.seconds is None else time.monotonic() + fault.seconds
        self.kept: dict[str, _Upstream] = {}

    @property
    def over(self) -> bool:
        """Whether nothing more will come of it."""
        spent = self.fault.count is not None and self.met >= self.fault.count
        return spent or (self.until is not None and time.monotonic() >= self.until)

    def fits(self, method: str, path: str) -> bool:
        """Whether a request is one that it happens to."""
        wanted = self.fault.method in ("", method) and re.search(self.fault.path, path) is not None
        return wanted and self.fault.kind is not Kind.REFUSE and not self.over


@dataclass(frozen=True, slots=True)
class _Upstream:
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class FaultyProxy:
    """A proxy that runs from its making until it is closed.

    :param upstream: base URL of the server behind it, plain http.
    :param port: port to listen on; 0: a free one.
    :param control_port: port of the control API; 0: a free one.
    """

    def __init__(self, upstream: str, *, port: int = 0, control_port: int = 0) -> None:
        self.upstream = upstream.rstrip("/")
        self.seen: list[Passed] = []
        self.stopping = threading.Event()
        self._faults: list[_Active] = []
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._open = threading.Event()
        self.port = port or _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", self.port))  # by number: a port that Linux chose is lost with the listening
        self._listen()
        self._control = ThreadingHTTPServer(("127.0.0.1", control_port), _control_of(self))
        self._control.daemon_threads = True
        self.control_url = f"http://127.0.0.1:{self._control.server_address[1]}"
        self._threads = [
            threading.Thread(target=self._accept, name="faulty-proxy", daemon=True),
            threading.Thread(
                target=self._control.serve_forever, args=(0.05,), name="faulty-proxy-control", daemon=True
            ),
        ]
        for thread in self._threads:
            thread.start()

    # --- faults -------------------------------------------------------------------------------------------------

    def add(self, fault: Fault) -> None:
        """Switch a fault on."""
        active = _Active(fault)
        with self._lock:
            self._faults = [other for other in self._faults if not other.over or other.fault.count is not None]
            self._faults.append(active)
        if fault.kind is Kind.REFUSE:
            self._refuse()
            if fault.seconds is not None:
                timer = threading.Timer(fault.seconds, self._listen_again)
                timer.daemon = True
                timer.start()

    def clear(self) -> None:
        """Switch all faults off."""
        with self._lock:
            self._faults = []
        self._listen_again()

    @contextlib.contextmanager
    def fault(self, kind: Kind, **details: Any) -> Iterator[None]:
        """A fault inside of the context; the others that are on go with it."""
        self.add(Fault(kind, **details))
        try:
            yield
        finally:
            self.clear()

    def faults(self) -> list[dict[str, Any]]:
        """Return the faults that were added, how often each was met, and whether it is over."""
        with self._lock:
            return [{**asdict(active.fault), "met": active.met, "over": active.over} for active in self._faults]

    def calls(self, path: str = "", *, forwarded: bool | None = None) -> list[Passed]:
        """Return the requests to a path (regular expression), or those of them that the server saw or did not see."""
        return [
            passed
            for passed in list(self.seen)
            if re.search(path, passed.path) and forwarded in (None, passed.forwarded)
        ]

    def _take(self, method: str, path: str) -> _Active | None:
        with self._lock:
            found = next((active for active in self._faults if active.fits(method, path)), None)
            if found is not None:
                found.met += 1
            return found

    # --- connections --------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        self._listener.listen(256)
        self._open.set()

    def _refuse(self) -> None:
        """Stop listening without giving up the port: Linux refuses connections to a bound socket that does not."""
        with self._lock:
            self._open.clear()
            connections = list(self._connections)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _listen_again(self) -> None:
        with self._lock:
            refused = any(active.fault.kind is Kind.REFUSE and not active.over for active in self._faults)
            if not refused and not self._open.is_set() and not self.stopping.is_set():
                self._listen()

    def _accept(self) -> None:
        while not self.stopping.is_set():
            self._open.wait()
            try:
                connection, address = self._listener.accept()
            except OSError:  # it does not listen any more
                self.stopping.wait(0.01)
                continue
            threading.Thread(target=self._serve, args=(connection, address), daemon=True).start()

    def _serve(self, connection: socket.socket, address: Any) -> None:
        with self._lock:
            self._connections.add(connection)
        try:
            with contextlib.suppress(OSError):
                _Handler(connection, address, self)  # type: ignore[arg-type] - all that it wants of a server is us
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.close()

    def close(self) -> None:
        """End it and every connection."""
        self.stopping.set()
        self._refuse()
        self._open.set()
        self._control.shutdown()
        self._control.server_close()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    # --- one request --------------------------------------------------------------------------------------------

    def handle(self, handler: _Handler, body: bytes) -> None:
        """Forward a request, or do to it what a fault says."""
        active = self._take(handler.command, handler.path)
        kind = active.fault.kind if active is not None else None
        forwards = kind in (None, *_FORWARDING)
        self.seen.append(Passed(handler.command, handler.path, kind.value if kind else "", forwards))
        if active is None:
            handler.reply(self.forward(handler, body))
        else:
            _DOINGS[active.fault.kind](handler, body, active)

    def forward(self, handler: _Handler, body: bytes) -> _Upstream:
        """Have a request answered by the server."""
        connection = http.client.HTTPConnection(urlsplit(self.upstream).netloc, timeout=120)
        try:
            headers = {name: value for name, value in handler.headers.items() if name.lower() not in _HOP_BY_HOP}
            connection.request(handler.command, handler.path, body or None, headers)
            response = connection.getresponse()
            return _Upstream(response.status, tuple(response.getheaders()), response.read())
        except (OSError, http.client.HTTPException) as error:
            return _Upstream(502, (("Content-Type", "text/plain"),), f"no answer from behind: {error}".encode())
        finally:
            connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


_HOP_BY_HOP: Final = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "host"})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any  # a FaultyProxy

    @property
    def proxy(self) -> FaultyProxy:
        """The proxy that it belongs to."""
        proxy: FaultyProxy = self.server
        return proxy

    def _answer(self) -> None:
        self.proxy.handle(self, self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _answer  # noqa: N815 - names that http.server looks for

    def reply(self, answer: _Upstream, *, length: int | None = None, **changed: str) -> None:
        """Send an answer; with another length than it has, the connection is closed behind it."""
        self.send_response_only(answer.status)
        known = {name.lower() for name, _ in answer.headers}
        for name, value in answer.headers:
            if name.lower() not in _HOP_BY_HOP and name.lower().replace("-", "_") not in changed:
                self.send_header(name, value)
        for name, value in changed.items():
            self.send_header(name.replace("_", "-").title(), value)
        if "date" not in known and "date" not in changed:
            self.send_header("Date", self.date_time_string())
        if length is not None:
            self.close_connection = True
        self.send_header("Content-Length", str(len(answer.body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def start(self, *headers: tuple[str, str]) -> None:
        """Begin an answer that ends with the connection."""
        self.close_connection = True
        self.send_response_only(200)
        for name, value in (("Content-Type", "application/json"), ("Connection", "close"), *headers):
            self.send_header(name, value)
        self.end_headers()

    def reset(self) -> None:
        """Have the connection end in RST, when it is closed."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def log_message(self, format: str, *args: Any) -> None:
        pass


# --- what each kind does ------------------------------------------------------------------------------------------

Doing = Callable[[_Handler, bytes, _Active], None]


def _drop(handler: _Handler, body: bytes, active: _Active) -> None:
    handler.reset()


def _lose(handler: _Handler, body: bytes, active: _Active) -> None:
    handler.proxy.forward(handler, body)
    handler.reset()


def _reset(handler: _Handler, body: bytes, active: _Active) -> None:
    answer = handler.proxy.forward(handler, body)
    sent = _Upstream(answer.status, answer.headers, answer.body[: active.fault.size])
    handler.reply(sent, length=max(len(answer.body), len(sent.body) + 1))
    handler.reset()


def _stall(handler: _Handler, body: bytes, active: _Active) -> None:
    handler.proxy.stopping.wait(active.fault.delay)
    handler.reply(handler.proxy.forward(handler, body))


def _late(handler: _Handler, body: bytes, active: _Active) -> None:
    answer = handler.proxy.forward(handler, body)
    handler.proxy.stopping.wait(active.fault.delay)
    handler.reply(answer)


def _page(fault: Fault, status: int, text: str) -> _Upstream:
    headers = [("Content-Type", "text/html; charset=utf-8")]
    if fault.retry_after:
        headers.append(("Retry-After", fault.retry_after))
    return _Upstream(status, tuple(headers), text.encode())


def _status(handler: _Handler, body: bytes, active: _Active) -> None:
    fault = active.fault
    page = APACHE_PAGE if fault.page == "apache" else NGINX_PAGE
    text = fault.text or page.format(status=fault.status, phrase=http.client.responses.get(fault.status, "Error"))
    handler.reply(_page(fault, fault.status, text))


def _answer(handler: _Handler, body: bytes, active: _Active) -> None:
    handler.reply(_page(active.fault, 200, active.fault.text or SIGN_IN_PAGE))


def _garbage(handler: _Handler, body: bytes, active: _Active) -> None:
    handler.reply(_Upstream(200, (("Content-Type", "application/json"),), bytes(range(256)) * 4))


def _truncated(handler: _Handler, body: bytes, active: _Active) -> None:
    answer = handler.proxy.forward(handler, body)
    handler.reply(_Upstream(answer.status, answer.headers, answer.body[: len(answer.body) // 2]))


def _cut(handler: _Handler, body: bytes, active: _Active) -> None:
    answer = handler.proxy.forward(handler, body)
    half = _Upstream(answer.status, answer.headers, answer.body[: len(answer.body) // 2])
    handler.reply(half, length=len(answer.body))


def _trickle(handler: _Handler, body: bytes, active: _Active) -> None:
    handler.start(("Content-Length", "1000000"))
    while not handler.proxy.stopping.wait(active.fault.delay or 1.0):
        handler.wfile.write(b" ")


def _huge(handler: _Handler, body: bytes, active: _Active) -> None:
    handler.start()
    for _ in range(-(-(active.fault.size or 10**9) // len(BLOCK))):
        handler.wfile.write(BLOCK)


def _bomb(handler: _Handler, body: bytes, active: _Active) -> None:
    handler.start(("Content-Encoding", "gzip"))
    with gzip.GzipFile(fileobj=handler.wfile, mode="wb") as compressed:
        for _ in range(-(-(active.fault.size or 10**9) // len(BLOCK))):
            compressed.write(BLOCK)


def _redirect(handler: _Handler, body: bytes, active: _Active) -> None:
    handler.reply(_Upstream(302, (("Location", active.fault.text),), b""))


def _type(handler: _Handler, body: bytes, active: _Active) -> None:
    handler.reply(handler.proxy.forward(handler, body), content_type=active.fault.text)


def _skew(handler: _Handler, body: bytes, active: _Active) -> None:
    shifted = formatdate(time.time() + active.fault.delay, usegmt=True)
    handler.reply(handler.proxy.forward(handler, body), date=shifted)


def _freeze(handler: _Handler, body: bytes, active: _Active) -> None:
    if handler.command != "GET":
        handler.reply(handler.proxy.forward(handler, body))
        return
    if handler.path not in active.kept:
        active.kept[handler.path] = handler.proxy.forward(handler, body)
    handler.reply(active.kept[handler.path])


_DOINGS: Final[dict[Kind, Doing]] = {
    Kind.DROP: _drop,
    Kind.LOSE: _lose,
    Kind.RESET: _reset,
    Kind.STALL: _stall,
    Kind.LATE: _late,
    Kind.STATUS: _status,
    Kind.ANSWER: _answer,
    Kind.GARBAGE: _garbage,
    Kind.TRUNCATED: _truncated,
    Kind.CUT: _cut,
    Kind.TRICKLE: _trickle,
    Kind.HUGE: _huge,
    Kind.BOMB: _bomb,
    Kind.REDIRECT: _redirect,
    Kind.TYPE: _type,
    Kind.SKEW: _skew,
    Kind.FREEZE: _freeze,
}
_FORWARDING: Final = frozenset(
    {Kind.LOSE, Kind.RESET, Kind.STALL, Kind.LATE, Kind.TRUNCATED, Kind.CUT, Kind.TYPE, Kind.SKEW, Kind.FREEZE}
)


# --- from other processes -------------------------------------------------------------------------------------------


def _control_of(proxy: FaultyProxy) -> type[BaseHTTPRequestHandler]:
    class Control(BaseHTTPRequestHandler):
        def _send(self, value: Any, status: int = 200) -> None:
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            self._send([asdict(passed) for passed in proxy.seen] if self.path == "/seen" else proxy.faults())

        def do_POST(self) -> None:
            try:
                given = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
                fault = Fault(Kind(given.pop("kind")), **given)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                known = ", ".join(field.name for field in fields(Fault))
                self._send(f"{error!r}: give {known} as a JSON object", 400)
                return
            proxy.add(fault)
            self._send(proxy.faults())

        def do_DELETE(self) -> None:
            proxy.clear()
            self._send(proxy.faults())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Control


class RemoteProxy:
    """A proxy that runs in another process.

    :param control_url: address of its control API.
    """

    def __init__(self, control_url: str) -> None:
        self._url = control_url.rstrip("/")

    def add(self, kind: Kind, **details: Any) -> None:
        """Switch a fault on."""
        self._ask("POST", "faults", {"kind": kind, **details})

    def clear(self) -> None:
        """Switch all faults off."""
        self._ask("DELETE", "faults")

    def faults(self) -> list[dict[str, Any]]:
        """See :meth:`FaultyProxy.faults`."""
        found: list[dict[str, Any]] = self._ask("GET", "faults")
        return found

    def seen(self) -> list[Passed]:
        """Return the requests that came in."""
        return [Passed(**passed) for passed in self._ask("GET", "seen")]

    def _ask(self, method: str, path: str, value: Any = None) -> Any:
        content = None if value is None else json.dumps(value).encode()
        with urlopen(Request(f"{self._url}/{path}", data=content, method=method), timeout=10) as answer:
            return json.load(answer)


@contextlib.contextmanager
def faulty_proxy(upstream: str, **ports: int) -> Iterator[FaultyProxy]:
    """A running proxy without faults."""
    proxy = FaultyProxy(upstream, **ports)
    try:
        yield proxy
    finally:
        proxy.close()


def main(words: list[str] | None = None) -> None:
    """Run until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m tests.stack.faulty_proxy", description="A proxy with faults.")
    parser.add_argument("upstream", help="base URL of the server behind it, plain http")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0: a free one")
    parser.add_argument("--control-port", type=int, default=0, help="port of the control API; 0: a free one")
    given = parser.parse_args(words)
    with faulty_proxy(given.upstream, port=given.port, control_port=given.control_port) as proxy:
        print(json.dumps({"url": proxy.url, "control": proxy.control_url}), flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            sys.stdin.read()


if __name__ == "__main__":
    main()
