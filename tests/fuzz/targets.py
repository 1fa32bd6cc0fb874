"""What is fuzzed: each target takes bytes of a stranger, and raises only what its caller is told of."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Callable
from typing import Any, Final

from airflow_provider_panda.broker.frames import BadFrame, Frame, FrameReader
from airflow_provider_panda.broker.screen import screen_result, screen_status
from airflow_provider_panda.broker.status import read_status
from airflow_provider_panda.exceptions import EnvelopeError, GridError, ValueDecodeError
from airflow_provider_panda.grid.answers import read_answer
from airflow_provider_panda.payload import bootstrap, envelope, values
from airflow_provider_panda.payload.reference import fetch_reference
from airflow_provider_panda.payload.result import JobResult, decode_value, read_body
from tests.fuzz.hostile import Target, report_of

TARGET: Final = Target("afabcdabcdefghijklmn", b"k" * 32)
BODY_LIMIT: Final = 4096
STRANGE_KEY: Final = b"?" * 32
"""Nothing that fuzzing begins with is signed by it."""


def frames(data: bytes) -> None:
    """A stream in pieces; what comes out does not depend on where it is cut."""
    size = data[0] + 1 if data else 1
    whole, pieces = (_cut([data[1:]]), _cut([data[at : at + size] for at in range(1, len(data), size)]))
    bodies = [[(frame.head, frame.body) for frame in found] for found in (whole, pieces)]
    assert bodies[0] == bodies[1], bodies


def _cut(stream: list[bytes]) -> list[Frame]:
    reader, found = FrameReader(BODY_LIMIT), []
    try:
        for piece in stream:
            found += reader.feed(piece)
    except BadFrame:
        pass
    return found


def message(data: bytes) -> None:
    """A result or status message: head and body, parted by the first empty line."""
    head, _, body = data.partition(b"\n\n")
    frame = Frame(b"MESSAGE\n" + head, body, len(body))
    screen_result(frame, {TARGET.key.encode(): 1})
    screen_status(frame, {1: 1})
    read_status(body)
    unsigned(body)


def unsigned(data: bytes) -> None:
    """A body without the key: nothing in it passes."""
    try:
        read_body(data, key=STRANGE_KEY, task_key=TARGET.key)
    except EnvelopeError:
        return
    raise AssertionError("a forged body was taken for a result")


def signed_report(data: bytes) -> None:
    """A report by one who has the key of the task: a result that can be told and decoded, or an error of ours."""
    import hashlib
    import hmac

    text = data.decode("utf-8", "replace")
    signature = hmac.new(TARGET.signing_key, text.encode(), hashlib.sha256).hexdigest()
    found = {"version": envelope.VERSION, "signed": text, "signature": signature}
    try:
        result = read_body({envelope.BODY_KEY: found}, key=TARGET.signing_key, task_key=TARGET.key)
        _value_of(result)
    except (EnvelopeError, ValueDecodeError):
        pass


def value(data: bytes) -> None:
    """An encoded value, in a report whose signature holds."""
    try:
        payload = json.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return
    for encoding in ("json", "reference"):
        report = report_of(TARGET, payload=payload, encoding=encoding)
        try:
            body = {envelope.BODY_KEY: envelope.sign(report, TARGET.signing_key)}
        except (ValueError, RecursionError):
            return
        with contextlib.suppress(EnvelopeError, ValueDecodeError):
            _value_of(read_body(body, key=TARGET.signing_key, task_key=TARGET.key))


def _value_of(result: JobResult) -> Any:
    return decode_value(fetch_reference(result, result_store="file:///nonexistent/store"))


def text_of_value(data: bytes) -> None:
    """Arguments on the worker node."""
    try:
        values.loads(data.decode("utf-8", "replace"))
    except values.UndecodableValue:
        pass
    except RecursionError:
        pass  # the runner reports it as it does any exception before the function began


def archive(data: bytes) -> None:
    """An archive that is unpacked."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, contextlib.suppress(bootstrap.BootstrapError):
        bootstrap.unpack(io.BytesIO(data), folder)


def answer(data: bytes) -> None:
    """An answer of PanDA, of any status."""
    with contextlib.suppress(GridError):
        read_answer(500 if data[:1] == b"5" else 200, data[1:], "https://panda.example")


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    each.__name__: each for each in (frames, message, unsigned, signed_report, value, text_of_value, archive, answer)
}
