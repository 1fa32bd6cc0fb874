"""Frames come out whole however the stream is cut, and nothing large is kept."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from airflow_provider_panda.broker.frames import HEAD_LIMIT, BadFrame, Frame, FrameReader, header, header_text

LIMIT = 1000


def frame(body: bytes, *, length: bool = True, **headers: str) -> bytes:
    lines = ["MESSAGE", *(f"{name.replace('_', '-')}:{value}" for name, value in headers.items())]
    if length:
        lines.append(f"content-length:{len(body)}")
    return "\n".join(lines).encode() + b"\n\n" + body + b"\0"


STREAM = (
    b"\n\n"
    + frame(b"first", x="1")
    + b"\n"
    + frame(b"a\0b\n\nc\0", x="2")
    + frame(b"no length", length=False, x="3")
    + frame(b"y" * (LIMIT + 1), x="4")
    + frame(b"z" * (3 * LIMIT), length=False, x="5")
    + b"\n\n\n"
    + b"RECEIPT\r\nreceipt-id:r\r\n\r\n\0\r\n"
    + frame(b"", x="6")
    + frame(b"", length=False, x="7")
)
EXPECTED = [
    (b"1", b"first"),
    (b"2", b"a\0b\n\nc\0"),
    (b"3", b"no length"),
    (b"4", None),
    (b"5", None),
    (None, b""),
    (b"6", b""),
    (b"7", b""),
]


def cut(stream: bytes, sizes: list[int]) -> list[Frame]:
    reader, frames, position = FrameReader(LIMIT), [], 0
    for size in sizes:
        frames += reader.feed(stream[position : position + size])
        position += size
    return frames + reader.feed(stream[position:])


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 64, 500, 1001, 10**6])
def test_any_piece_size_gives_the_same_frames(piece: int) -> None:
    frames = cut(STREAM, [piece] * (len(STREAM) // piece))
    assert [(header(each.head, b"x"), each.body) for each in frames] == EXPECTED


def test_random_cuts_give_the_same_frames() -> None:
    rng = random.Random(7)
    for _ in range(300):
        frames = cut(STREAM, [rng.randint(1, 900) for _ in range(40)])
        assert [(header(each.head, b"x"), each.body) for each in frames] == EXPECTED


def test_size_of_a_skipped_body_is_known_from_its_length() -> None:
    (large,) = FrameReader(10).feed(frame(b"q" * 11))
    assert large == Frame(b"MESSAGE\ncontent-length:11", None, 11)


@pytest.mark.parametrize("length", [True, False])
def test_a_large_frame_is_not_kept(length: bool) -> None:
    reader = FrameReader(LIMIT)
    noise = b"\0" * 65536 if length else b"q" * 65536
    large = reader.feed(b"MESSAGE\n" + (b"content-length:104857600\n" if length else b"") + b"\n")
    tracemalloc.start()
    large += [each for _ in range(1600) for each in reader.feed(noise)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [each.body for each in large] == [None]
    assert peak < 1024 * 1024
    assert reader.feed(b"\0" + frame(b"next"))[0].body == b"next"


@pytest.mark.parametrize(
    "stream",
    [
        b"x" * (HEAD_LIMIT + 1),
        b"MESSAGE\ncontent-length:ten\n\nbody\0",
        b"MESSAGE\ncontent-length:-1\n\nbody\0",
        b"MESSAGE\ncontent-length:9999999999999999\n\nbody\0",
        b"MESSAGE\ncontent-length:2\n\nbody\0",
    ],
    ids=["endless head", "no number", "negative", "huge", "too short"],
)
def test_what_is_no_stomp_is_refused(stream: bytes) -> None:
    with pytest.raises(BadFrame):
        FrameReader(LIMIT).feed(stream)


@pytest.mark.parametrize("length", ["first", "last", None])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("piece", [7, 1000, 65_536, 1_000_000])
def test_headers_over_the_limit_cost_that_message_only(length: str | None, end: bytes, piece: int) -> None:
    body = b"a\n\nb" if length is None else b"a\0\n\nb"
    told = b"content-length:%d" % len(body)
    lines = [b"MESSAGE", *(b"x%d:%s" % (number, b"h" * 9000) for number in range(20)), b"x:content-length:3"]
    lines[1:1] = [told] if length == "first" else []
    lines += [told, b"content-length:1"] if length == "last" else []
    stream = frame(b"before") + end.join(lines) + end + end + body + b"\0" + frame(b"after")
    reader = FrameReader(LIMIT)
    frames = [each for at in range(0, len(stream), piece) for each in reader.feed(stream[at : at + piece])]
    assert [each.body for each in frames] == [b"before", None, b"after"]
    assert frames[1].head == stream[len(frame(b"before")) :][:HEAD_LIMIT]


def test_headers_without_end_take_no_memory() -> None:
    reader = FrameReader(LIMIT)
    reader.feed(b"MESSAGE\n" + b"x:y\n" * 20_000)
    tracemalloc.start()
    for _ in range(500):
        assert reader.feed(b"x:y\n" * 10_000) == []
    assert reader.feed(b"h" * 10_000_000) == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 * 1024 * 1024
    assert [each.body for each in reader.feed(b"\n\nbody\0" + frame(b"next"))] == [b"next"]


def test_frames_before_the_bad_place_are_good() -> None:
    reader = FrameReader(LIMIT)
    frames = reader.feed(frame(b"good") + b"MESSAGE\ncontent-length:ten\n\nbody\0")
    assert [each.body for each in frames] == [b"good"]
    assert isinstance(reader.bad, BadFrame)
    with pytest.raises(BadFrame, match="no number"):
        reader.feed(b"\n")


def test_headers() -> None:
    head = b"MESSAGE\r\ninternal_id:af1\r\ninternal_id:second\r\nother_internal_id:no\r\nmessage:a\\cb\\nc"
    assert header(head, b"internal_id") == b"af1"
    assert header(head, b"id") is None
    assert header_text(head, b"message") == "a:b c"
    assert header_text(head, b"missing") == ""
