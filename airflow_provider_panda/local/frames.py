"""STOMP frames 1.0 to 1.2 as bytes, for the embedded broker (https://stomp.github.io/stomp-specification-1.2.html)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

FRAME_LIMIT: Final = 100 * 1024 * 1024
HEADER_LIMIT: Final = 64 * 1024


class FrameError(Exception):
    """Bytes that are no STOMP frame, or one that is too large."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame."""

    command: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


_ESCAPES: Final = {"\\\\": "\\", "\\n": "\n", "\\r": "\r", "\\c": ":"}


def unescape(text: str) -> str:
    """Return a header part without STOMP's escapes.

    :raises FrameError: an escape that STOMP does not have.
    """
    if "\\" not in text:
        return text
    parts: list[str] = []
    position = 0
    while position < len(text):
        if text[position] == "\\":
            pair = text[position : position + 2]
            if pair not in _ESCAPES:
                raise FrameError(f"unknown escape {pair!r}")
            parts.append(_ESCAPES[pair])
            position += 2
        else:
            parts.append(text[position])
            position += 1
    return "".join(parts)


def escape(text: str) -> str:
    """Return a header part with STOMP's escapes."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace(":", "\\c")


def encode(frame: Frame, *, escaped: bool) -> bytes:
    """Return the bytes of a frame.

    :param escaped: whether header parts are escaped: not in STOMP 1.0, nor in CONNECTED.
    """
    shape = escape if escaped else str
    lines = [frame.command, *(f"{shape(k)}:{shape(v)}" for k, v in frame.headers.items())]
    return "\n".join(lines).encode() + b"\n\n" + frame.body + b"\x00"


async def read_frame(reader: asyncio.StreamReader, *, escaped: bool, limit: int = FRAME_LIMIT) -> Frame | None:
    """Return the next frame, or None for a heart-beat.

    :param escaped: whether header parts are escaped (not before CONNECTED, not in STOMP 1.0).
    :param limit: greatest size of a body in bytes.
    :raises FrameError: what comes is no frame, or is too large.
    :raises asyncio.IncompleteReadError: the connection ended.
    """
    line = await _line(reader)
    if not line:
        return None
    command = line.decode("utf-8", "replace")
    if not command.isalpha() or not command.isupper() or len(command) > 20:
        raise FrameError("no STOMP command")
    headers: dict[str, str] = {}
    size = 0
    while line := await _line(reader):
        size += len(line)
        if size > HEADER_LIMIT:
            raise FrameError(f"headers over {HEADER_LIMIT} bytes")
        name, colon, value = line.decode("utf-8", "replace").partition(":")
        if not colon:
            raise FrameError("a header without a colon")
        if escaped and command != "CONNECT":
            name, value = unescape(name), unescape(value)
        headers.setdefault(name, value)
    return Frame(command, headers, await _body(reader, headers, limit))


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        line = await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError:
        raise FrameError(f"a line over {HEADER_LIMIT} bytes") from None
    return line[:-1].removesuffix(b"\r")


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str], limit: int) -> bytes:
    announced = headers.get("content-length")
    if announced is not None:
        if not announced.strip().isdigit():
            raise FrameError("content-length is no number")
        length = int(announced)
        if length > limit:
            raise FrameError(f"a body of {length} bytes, over the limit of {limit}")
        body = await reader.readexactly(length)
        if await reader.readexactly(1) != b"\x00":
            raise FrameError("no NUL after the body")
        return body
    parts: list[bytes] = []
    size = 0
    while True:
        try:
            part = await reader.readuntil(b"\x00")
        except asyncio.LimitOverrunError as error:
            part = await reader.readexactly(error.consumed)
            parts.append(part)
            size += len(part)
        else:
            parts.append(part[:-1])
            return b"".join(parts)
        if size > limit:
            raise FrameError(f"a body over the limit of {limit} bytes")
