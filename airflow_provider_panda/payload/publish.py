"""The little STOMP that a worker node speaks: connect, send one message with a receipt, go.

Shipped to the worker node: standard library only, Python 3.9-3.13. Frames follow the STOMP 1.2 specification.
"""

from __future__ import annotations

import random
import socket
import time
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

TOTAL_SECONDS = 30.0
"""How long one call of :func:`publish` goes on trying."""
STEP_SECONDS = 6.0
"""Longest wait for one connection or one frame."""
FRAME_LIMIT = 64 * 1024

_ESCAPES = {"\\": "\\\\", "\r": "\\r", "\n": "\\n", ":": "\\c"}
_UNESCAPES = {"\\\\": "\\", "\\r": "\r", "\\n": "\n", "\\c": ":"}


class Outcome(NamedTuple):
    """How publishing ended.

    :param ok: whether a broker confirmed the message.
    :param address: ``host:port`` of the broker that did.
    :param attempts: connections tried.
    :param problem: why not, in one line.
    """

    ok: bool
    address: str
    attempts: int
    problem: str


class ProtocolError(Exception):
    """The other side is no STOMP broker, or it answered with an ERROR frame."""


def publish(
    broker: Dict[str, Any], headers: Dict[str, str], body: str, *, total_seconds: float = TOTAL_SECONDS
) -> Outcome:
    """Send one message to the first broker address that confirms it; never raises.

    :param broker: ``addresses`` ([[host, port], ...]), ``login``, ``passcode``, ``tls``, ``destination``.
    :param total_seconds: when to give up.
    """
    deadline = time.monotonic() + total_seconds
    attempts, problem = 0, "no broker address"
    try:
        pauses = backoff()
        while True:
            for host, port in broker["addresses"]:
                for address in resolve(host, int(port)):
                    attempts += 1
                    try:
                        _send(broker, host, address, headers, body, deadline)
                        return Outcome(True, "%s:%s" % (host, port), attempts, "")
                    except (OSError, ProtocolError, ValueError) as error:
                        problem = "%s:%s: %s" % (host, port, error or type(error).__name__)
                    if time.monotonic() >= deadline:
                        return Outcome(False, "", attempts, problem)
                if attempts == 0:
                    problem = "%s: the name is not resolved" % host
            pause = next(pauses)
            if time.monotonic() + pause >= deadline:
                return Outcome(False, "", attempts, problem)
            time.sleep(pause)
    except Exception as error:  # settings of a wrong shape: the job has its report nevertheless
        return Outcome(False, "", attempts, "%s: %s" % (type(error).__name__, error))


def backoff(first: float = 0.25, factor: float = 2.0, longest: float = 8.0) -> Iterator[float]:
    """Yield pauses in seconds, each with jitter, so that thousands of jobs do not come back at once."""
    pause = first
    while True:
        yield pause * random.uniform(0.5, 1.0)  # noqa: S311 - spreads attempts, no secret
        pause = min(longest, pause * factor)


def resolve(host: str, port: int) -> List[Tuple[Any, ...]]:
    """Return every address of a name, in random order; none if it is not resolved."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    random.shuffle(found)
    return list(found)


def encode_frame(command: str, headers: Dict[str, str], body: bytes = b"") -> bytes:
    """Return the bytes of a frame; headers of CONNECT are not escaped (STOMP 1.2, value encoding)."""
    lines = [command]
    for name, value in headers.items():
        if command != "CONNECT":
            name, value = _escape(name), _escape(value)
        lines.append("%s:%s" % (name, value))
    if body:
        lines.append("content-length:%d" % len(body))
    return ("\n".join(lines) + "\n\n").encode() + body + b"\0"


def decode_frame(data: bytes) -> Optional[Tuple[str, Dict[str, str], bytes]]:
    """Return command, headers and body of the frame that ``data`` begins with, or None if it is not complete.

    :raises ProtocolError: the bytes are no frame.
    """
    data = data.lstrip(b"\r\n")
    if len(data) > FRAME_LIMIT:
        raise ProtocolError("the answer is no STOMP frame")
    end, width = data.find(b"\n\n"), 2
    crlf = data.find(b"\r\n\r\n")
    if crlf >= 0 and (end < 0 or crlf < end):
        end, width = crlf, 4
    if end < 0:
        if data and not data[:1].isupper():
            raise ProtocolError("the answer is no STOMP frame")
        return None
    lines = data[:end].decode("utf-8", "replace").replace("\r\n", "\n").split("\n")
    headers: Dict[str, str] = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers.setdefault(_unescape(name), _unescape(value))
    rest = data[end + width :]
    length = headers.get("content-length", "")
    if length.isdigit():
        if len(rest) <= int(length):
            return None
        return lines[0], headers, rest[: int(length)]
    stop = rest.find(b"\0")
    return None if stop < 0 else (lines[0], headers, rest[:stop])


def _escape(text: str) -> str:
    return "".join(_ESCAPES.get(character, character) for character in text)


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    out, index = [], 0
    while index < len(text):
        pair = text[index : index + 2]
        out.append(_UNESCAPES.get(pair, text[index]))
        index += 2 if pair in _UNESCAPES else 1
    return "".join(out)


def _send(
    broker: Dict[str, Any], host: str, address: Tuple[Any, ...], headers: Dict[str, str], body: str, deadline: float
) -> None:
    family, kind, protocol, _, target = address
    plain = socket.socket(family, kind, protocol)
    try:
        plain.settimeout(_step(deadline))
        plain.connect(target)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _secured(plain, broker.get("tls"), host)
    except BaseException:
        plain.close()
        raise
    with connection:
        connect = {"accept-version": "1.2", "host": host, "heart-beat": "0,0"}
        if broker.get("login"):
            connect["login"] = broker["login"]
            connect["passcode"] = broker.get("passcode") or ""
        connection.sendall(encode_frame("CONNECT", connect))
        _expect(connection, "CONNECTED", deadline)
        send = dict(headers, destination=broker["destination"], receipt="sent")
        connection.sendall(encode_frame("SEND", send, body.encode()))
        _expect(connection, "RECEIPT", deadline)
        try:
            connection.sendall(encode_frame("DISCONNECT", {}))
        except OSError:
            pass  # the message is confirmed


def _secured(plain: socket.socket, tls: Any, host: str) -> socket.socket:
    if not tls:
        return plain
    import ssl

    authority = tls.get("ca") if isinstance(tls, dict) else None
    return ssl.create_default_context(cadata=authority).wrap_socket(plain, server_hostname=host)


def _step(deadline: float) -> float:
    return max(0.1, min(STEP_SECONDS, deadline - time.monotonic()))


def _expect(connection: socket.socket, command: str, deadline: float) -> None:
    data = b""
    until = time.monotonic() + _step(deadline)
    while True:
        remaining = until - time.monotonic()
        if remaining <= 0:
            raise ProtocolError("no %s within %g s" % (command, STEP_SECONDS))
        connection.settimeout(remaining)
        chunk = connection.recv(8192)
        if not chunk:
            raise ProtocolError("the broker closed the connection before %s" % command)
        data += chunk
        frame = decode_frame(data)
        if frame is None:
            continue
        if frame[0] == command:
            return
        text = frame[1].get("message") or frame[2].decode("utf-8", "replace")
        raise ProtocolError("%s: %s" % (frame[0][:40], " ".join(text.split())[:300]))
