"""STOMP frames cut out of a byte stream, with bounds (STOMP 1.2, section "Augmented BNF").

stomp.py keeps a whole frame however large, copies it with every further piece, and builds a dict of the headers of
every message. A hub sees mostly messages of other tasks, and whoever may publish may send 100 MB of zeros. So a
frame is cut here without parsing its headers, and the body of one that is too large is skipped as it arrives. So are
headers that are too large: a broker passes on what a publisher gave (ActiveMQ 1,000 of 10 KiB each), and one such
message must not cost the connection.
"""

from __future__ import annotations

from typing import Final, NamedTuple

HEAD_LIMIT: Final = 64 * 1024
"""Largest command line with headers, in bytes, that is read."""

_END: Final = b"\n\n"
_END_CR: Final = b"\n\r\n"
_EOLS: Final = b"\r\n"


class BadFrame(ValueError):  # noqa: N818 - it says what is bad, as in payload.envelope
    """The stream is no STOMP; nothing after this point can be told apart."""


class Frame(NamedTuple):
    """One frame.

    :ivar head: command line and header lines as sent, without the empty line after them; cut if they are too large.
    :ivar body: the body, or None if it was larger than the limit and skipped.
    :ivar size: size of the body in bytes (of a skipped one without content-length: what was seen of it so far).
    """

    head: bytes
    body: bytes | None
    size: int

    @property
    def command(self) -> bytes:
        """The command, such as ``b"MESSAGE"``."""
        return self.head.split(b"\n", 1)[0].rstrip(b"\r")


def header(head: bytes, name: bytes) -> bytes | None:
    """Return the value of a header as sent (escapes are left alone), or None; of a repeated one the first counts.

    :param head: :attr:`Frame.head`.
    :param name: name of the header in lower case.
    """
    start = head.find(b"\n" + name + b":")
    if start < 0:
        return None
    start += len(name) + 2
    end = head.find(b"\n", start)
    return (head[start:] if end < 0 else head[start:end]).rstrip(b"\r")


def header_text(head: bytes, name: bytes) -> str:
    """Return a header as text for people, escapes resolved; empty if it is missing."""
    value = header(head, name)
    if value is None:
        return ""
    text = value.decode("utf-8", "replace")
    return text.replace("\\c", ":").replace("\\n", " ").replace("\\r", " ").replace("\\\\", "\\")


def _length(text: bytes | None) -> int | None:
    if text is None:
        return None
    if not text.isdigit() or len(text) > 15:
        raise BadFrame("content-length is no number")
    return int(text)


_LINE_KEPT: Final = 64
"""Bytes of a line that has not ended yet: more than a content-length takes."""


class _LongHead:
    """Looks for the end of headers that are too large to keep, and for the length of the body behind them."""

    def __init__(self) -> None:
        self.length: bytes | None = None
        self._line = b""

    def skip(self, data: bytes) -> int | None:
        """Return where in ``data`` the body begins, or None if the headers have not ended yet."""
        joined = self._line + data
        ends = [(at, at + len(mark)) for mark in (_END, _END_CR) if (at := joined.find(mark)) >= 0]
        end, body = min(ends, default=(joined.rfind(b"\n"), -1))
        if self.length is None and end >= 0:
            self.length = header(joined[:end], b"content-length")
        if body >= 0:
            return body - len(self._line)
        line = joined[max(end, 0) :]
        self._line = line if len(line) <= _LINE_KEPT else b""
        return None


class FrameReader:
    """Cuts frames out of pieces of a stream.

    :param body_limit: largest body in bytes that is kept; of larger ones only the head comes out.

    :ivar bad: why nothing more can be read, or None.
    """

    def __init__(self, body_limit: int) -> None:
        self._limit = body_limit
        self._pieces: list[bytes] = []
        self._have = 0
        self._need = 1
        self._skip = 0
        self._skip_to_null = False
        self._head: _LongHead | None = None
        self.bad: BadFrame | None = None

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that are complete with this piece; end-of-lines between frames are heart-beats.

        :raises BadFrame: the stream is no STOMP, and no frame was before that place; with some, :attr:`bad` tells it.
        """
        if self.bad is not None:
            raise self.bad
        frames: list[Frame] = []
        try:
            self._feed(data, frames)
        except BadFrame as error:
            self.bad = error
            if not frames:
                raise
        return frames

    def _feed(self, data: bytes, frames: list[Frame]) -> None:
        if self._head is not None:
            data = self._skipped_head(self._head, data)
        if self._skip or self._skip_to_null:
            data = self._skipped(data)
        self._have += len(data)
        if self._have < self._need:
            if data:
                self._pieces.append(data)
            return
        if self._pieces:
            self._pieces.append(data)
            data = b"".join(self._pieces)
            self._pieces = []
        position = 0
        while position < len(data):
            after = self._cut(data, position, frames)
            if after is None:
                break
            position = after
        rest = data[position:] if position else data
        self._have = len(rest)
        if rest:
            self._pieces.append(rest)
        else:
            self._need = 1

    def _skipped_head(self, head: _LongHead, data: bytes) -> bytes:
        after = head.skip(data)
        if after is None:
            return b""
        self._head = None
        length = _length(head.length)
        if length is None:
            self._skip_to_null = True
        else:
            self._skip = length + 1
        return data[after:]

    def _skipped(self, data: bytes) -> bytes:
        if self._skip_to_null:
            null = data.find(0)
            if null < 0:
                return b""
            self._skip_to_null = False
            return data[null + 1 :]
        taken = min(self._skip, len(data))
        self._skip -= taken
        return data[taken:]

    def _cut(self, data: bytes, position: int, frames: list[Frame]) -> int | None:
        """Append the frame at ``position`` and return where the next begins; None: more bytes are needed."""
        size = len(data)
        while position < size and data[position] in _EOLS:
            position += 1
        if position == size:
            return size
        end = data.find(_END, position, position + HEAD_LIMIT)
        end_cr = data.find(_END_CR, position, position + HEAD_LIMIT if end < 0 else end)
        if end_cr >= 0:
            end, body = end_cr, end_cr + len(_END_CR)
        elif end >= 0:
            body = end + len(_END)
        elif size - position >= HEAD_LIMIT:
            return self._cut_long_head(data, position, frames)
        else:
            self._need = size - position + 1
            return None
        head = data[position:end]
        length = _length(header(head, b"content-length"))
        if length is None:
            return self._cut_to_null(data, position, head, body, frames)
        stop = body + length
        if stop - body > self._limit:
            frames.append(Frame(head, None, stop - body))
            self._skip = max(0, stop + 1 - size)
            return min(size, stop + 1)
        if stop >= size:
            self._need = stop + 1 - position
            return None
        if data[stop] != 0:
            raise BadFrame("a frame does not end after its content-length")
        frames.append(Frame(head, data[body:stop], stop - body))
        return stop + 1

    def _cut_long_head(self, data: bytes, position: int, frames: list[Frame]) -> int:
        if not data.startswith(b"MESSAGE", position):
            raise BadFrame(f"no end of headers within {HEAD_LIMIT} bytes")
        frames.append(Frame(data[position : position + HEAD_LIMIT], None, 0))
        self._head = _LongHead()
        rest = self._skipped_head(self._head, data[position:])
        if self._skip or self._skip_to_null:
            rest = self._skipped(rest)
        return len(data) - len(rest)

    def _cut_to_null(self, data: bytes, position: int, head: bytes, body: int, frames: list[Frame]) -> int | None:
        stop = data.find(0, body)
        seen = (len(data) if stop < 0 else stop) - body
        if seen > self._limit:
            frames.append(Frame(head, None, seen))
            self._skip_to_null = stop < 0
            return len(data) if stop < 0 else stop + 1
        if stop < 0:
            self._need = len(data) - position + 1
            return None
        frames.append(Frame(head, data[body:stop], seen))
        return stop + 1
