"""Small rules: file names of the cache, masks of the pages, payload commands, options, frames."""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_panda.local import add_arguments, options_from
from airflow_provider_panda.local.auth import keys_of
from airflow_provider_panda.local.cache import CacheError, safe_name, size_limit
from airflow_provider_panda.local.frames import Frame, FrameError, encode, read_frame
from airflow_provider_panda.local.issuer import Lifetimes
from airflow_provider_panda.local.pages import mask, mask_text
from airflow_provider_panda.local.payload import PayloadSetupError, last_line, payload_command


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("a.tgz", "a.tgz"), ("/tmp/x/a.tgz", "a.tgz"), ("..\\..\\a.tgz", "a.tgz"), ("../../etc/passwd", "passwd")],
)
def test_names_of_cache_files(sent: str, kept: str) -> None:
    assert safe_name(sent) == kept


@pytest.mark.parametrize("sent", ["", "/", "..", ".hidden", "a/..", "x" * 300, "a\x00b", "a\nb"])
def test_names_that_are_refused(sent: str) -> None:
    with pytest.raises(CacheError):
        safe_name(sent)


def test_limits_of_cache_files() -> None:
    mib = 1024 * 1024
    assert [size_limit(n) // mib for n in ("sources.x.tar.gz", "a.out", "a.tgz")] == [768, 100, 10]


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("--token=abc123 x", "abc123"),
        ("PASSWORD: hunter2", "hunter2"),
        ('{"passcode": "p-p", "a": 1}', "p-p"),
        ("Authorization: Bearer abc.def", "abc.def"),
        ("x eyJhbGciOi.eyJzdWIi.c2ln y", "eyJhbGciOi.eyJzdWIi.c2ln"),
    ],
)
def test_masked_text(text: str, secret: str) -> None:
    assert secret not in mask_text(text)


def test_masked_parameters() -> None:
    masked = mask({"a": {"signing_key": "s1", "useSecrets": True}, "list": ["token=s2", 5], "passcode": ["s3"]})
    assert not [s for s in ("s1", "s2", "s3") if s in json.dumps(masked)]
    assert masked["a"]["useSecrets"] is True


def test_payload_commands(tmp_path: Path) -> None:
    encoded = base64.b64encode(b"echo 'a b'").decode()
    assert payload_command("https://x/bash-c-enc", encoded, tmp_path, tmp_path) == ["/bin/bash", "-c", "echo 'a b'"]
    assert payload_command("bash-c", "echo 1", tmp_path, tmp_path) == ["/bin/bash", "-c", "echo 1"]
    (tmp_path / "trf").mkdir()
    (tmp_path / "trf" / "mine").write_text("#!/bin/sh\n")
    assert payload_command("x/mine", "-a b", tmp_path / "trf", tmp_path) == ["/bin/bash", "-c", "./mine -a b"]
    assert (tmp_path / "mine").stat().st_mode & 0o111


@pytest.mark.parametrize(
    ("transform", "text"), [("bash-c-enc", "not base64!"), ("x/nosuch", "a"), ("", "a"), ("..", "a")]
)
def test_payloads_that_cannot_start(transform: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(PayloadSetupError):
        payload_command(transform, text, tmp_path / "trf", tmp_path)


def test_last_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("a\n" * 5000 + "the end\n\n  \n")
    assert last_line(path) == "the end"
    assert last_line(tmp_path / "none") == ""


def test_options() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = options_from(
        parser.parse_args(
            [
                "--data",
                "d",
                "--slots",
                "3",
                "--queue",
                "A",
                "--queue",
                "B",
                "--failure-rate",
                "0.1",
                "--broker",
                "h:61613",
                "--no-broker",
            ]
        )
    )
    assert (options.queues, options.slots, options.broker) == (("A", "B"), 3, ("h", 61613))
    assert (options.failure_rate, options.embedded_broker, options.host) == (0.1, False, "127.0.0.1")
    for wrong in (["--failure-rate", "2"], ["--slots", "-1"], ["--http-port", "70000"], ["--broker", "nohost"]):
        with pytest.raises(SystemExit):
            parser.parse_args(wrong)


def test_options_of_the_issuer_and_the_relay() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    usual = options_from(parser.parse_args([]))
    assert (usual.idds_host, usual.issuer, usual.lifetimes) == (None, None, Lifetimes())
    said = options_from(
        parser.parse_args(
            [
                "--idds-host",
                "https://idds:443/idds/",
                "--idds-deadline",
                "5",
                "--issuer",
                "http://grid:25080",
                "--id-token-lifetime",
                "60",
                "--refresh-token-lifetime",
                "120",
                "--rotate-refresh-tokens",
            ]
        )
    )
    assert (said.idds_host, said.idds_deadline, said.issuer) == ("https://idds:443/idds", 5.0, "http://grid:25080")
    assert said.lifetimes == Lifetimes(id_token=60, refresh_token=120, rotate=True)
    for wrong in (["--idds-host", "idds:443"], ["--idds-host", "http://a:b@idds"], ["--issuer", "ftp://x"]):
        with pytest.raises(SystemExit):
            parser.parse_args(wrong)


def test_keys_are_made_once(tmp_path: Path) -> None:
    assert keys_of(tmp_path) == keys_of(tmp_path)


async def read(data: bytes, **options: Any) -> Frame | None:
    reader = asyncio.StreamReader(limit=1024)
    reader.feed_data(data)
    reader.feed_eof()
    return await read_frame(reader, escaped=True, **options)


@pytest.mark.parametrize("body", [b"", b"text", b"with\x00nul", b"x" * 5000])
async def test_frames_come_back(body: bytes) -> None:
    frame = Frame("SEND", {"a:b": "c\nd\\", "content-length": str(len(body))}, body)
    assert await read(encode(frame, escaped=True)) == frame


async def test_a_body_without_length_ends_at_nul() -> None:
    got = await read(b"SEND\ndestination:/topic/x\n\n" + b"y" * 5000 + b"\x00")
    assert got is not None
    assert got.body == b"y" * 5000


async def test_first_of_repeated_headers_counts() -> None:
    got = await read(b"SEND\r\na:1\r\na:2\r\n\r\n\x00")
    assert got is not None
    assert got.headers == {"a": "1"}


@pytest.mark.parametrize(
    "data",
    [
        b"send\n\n\x00",
        b"SEND\nnocolon\n\n\x00",
        b"SEND\na:\\x\n\n\x00",
        b"SEND\ncontent-length:x\n\n\x00",
        b"SEND\ncontent-length:99\n\n",
        b"SEND\ncontent-length:1\n\nab",
        b"SEND\na:" + b"x" * 5000 + b"\n\n\x00",
        b"SEND\n\n" + b"x" * 5000 + b"\x00",
    ],
)
async def test_what_is_no_frame(data: bytes) -> None:
    with pytest.raises(FrameError):
        await read(data, limit=50)


async def test_heart_beat_is_no_frame() -> None:
    assert await read(b"\n") is None
