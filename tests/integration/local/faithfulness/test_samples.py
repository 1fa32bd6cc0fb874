"""Every captured exchange, sent again to an embedded grid in the same situation."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .gaps import DIFFERS, NOT_COVERED, VOLATILE, VOLATILE_IN
from .samples import CAPTURED, SAMPLES, TRUNCATED, exchanges, messages, names_in
from .shapes import differences, leaf
from .situations import SITUATIONS
from .world import Replay, World

NOT_COMPARED = {"keep-alive"}
"""Headers that say how long httpd keeps a connection."""


def trimmed(real: Any, ours: Any) -> Any:
    """Return our answer with as many elements as were captured of the real one."""
    return {**ours, "data": ours["data"][: len(real["data"])]}


@pytest.mark.parametrize("name", sorted(set(exchanges()) - set(NOT_COVERED)))
def test_answers_as_the_real_server_did(world: World, name: str) -> None:
    sample = exchanges()[name]
    replay = SITUATIONS[name](world)
    answer = world.send(sample, replay)
    assert answer.status_code == sample.status, answer.text
    for header, value in sample.answer_headers.items():
        if header.lower() not in NOT_COMPARED:
            assert header in answer.headers, f"header {header} is missing"
            if header in ("Content-Type", "Transfer-Encoding"):
                assert answer.headers[header] == value
    if isinstance(sample.answer, str):
        compare_text(sample.answer, answer.content, replay)
        return
    ours = json.loads(answer.content)
    if name in TRUNCATED:
        ours = trimmed(sample.answer, ours)
    if name == "job.get_metadata_for_analysis_jobs#0":
        replay = Replay(replay.grid, ids={2: int(replay.names["job"])})
    if isinstance(ours, dict):
        assert list(ours) == list(sample.answer), "the envelope's keys, in their order"
    volatile = VOLATILE | VOLATILE_IN.get(name, frozenset())
    found = [
        f"{path} {what}"
        for path, what in differences(sample.answer, ours, volatile=volatile, ids=replay.ids)
        if leaf(path) not in DIFFERS
    ]
    assert not found, "\n".join(found)


def compare_text(real: str, ours: bytes, replay: Replay) -> None:
    """Compare an answer that is no JSON; a file is what was uploaded (it was captured as text, so not in full)."""
    if replay.upload:
        assert ours == replay.upload
    else:
        assert ours.decode() == real


@pytest.mark.parametrize("name", sorted(messages()))
def test_says_on_the_broker_what_the_real_server_did(world: World, name: str) -> None:
    sample = messages()[name]
    assert world.ended_in_every_way
    wanted = {"msg_type": sample.body["msg_type"], "status": sample.body["status"]}
    headers, body = world.listener.first(**wanted)
    assert set(headers) == set(sample.headers)
    assert headers["destination"] == sample.headers["destination"]
    found = [f"{p} {w}" for p, w in differences(sample.body, body, volatile=VOLATILE | {"inputs"}, ids={})]
    assert not found, "\n".join(found)
    assert list(body) == list(sample.body)


def test_every_sample_is_covered_or_excused() -> None:
    everything = set(exchanges())
    assert set(SITUATIONS) | set(NOT_COVERED) == everything
    assert not set(SITUATIONS) & set(NOT_COVERED)
    assert all(NOT_COVERED.values())


@pytest.mark.skipif(not CAPTURED.is_dir(), reason="the originals are on the development machine only")
def test_every_captured_exchange_has_its_copy() -> None:
    assert names_in(CAPTURED) == names_in(SAMPLES / "panda")
