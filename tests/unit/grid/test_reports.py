"""Results without a broker: what iDDS stored and PanDA kept, verified before anything of it is believed."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from airflow_provider_panda.grid.reports import verified_messages, verified_results
from airflow_provider_panda.grid.task import JobRecord
from airflow_provider_panda.payload import envelope
from tests.unit.grid.idds.samples import sample
from tests.unit.triggers.scripted import KEY, SECRET, report

SIGNING_KEY = envelope.derive_key(SECRET, KEY)


def read(*bodies: Any) -> list[tuple[int, Any]]:
    return [(each.job, each.payload) for each in verified_messages(bodies, key=SIGNING_KEY, task_key=KEY)]


def test_messages_of_the_task_are_read_whatever_stands_between_them(caplog: pytest.LogCaptureFixture) -> None:
    unsigned = report()
    del unsigned[envelope.BODY_KEY]["signature"]
    changed = report()
    changed[envelope.BODY_KEY]["signed"] = changed[envelope.BODY_KEY]["signed"].replace('"payload":1', '"payload":2')
    others = [
        report(key="afabcd00000000000000"), unsigned, changed, {}, {envelope.BODY_KEY: 3}, None, 7, [], "x",
        *[each["body"] for each in sample("broker_messages.json")],
    ]  # fmt: skip
    with caplog.at_level(logging.WARNING):
        assert read(report(0, "a"), *others, report(1, "b")) == [(0, "a"), (1, "b")]
    assert caplog.text.count(f"{KEY}: message that iDDS stored ignored") == len(others)


def test_a_message_as_the_runner_publishes_it() -> None:
    content = json.loads(report(payload=[1])[envelope.BODY_KEY]["signed"])
    _, body = envelope.message(content, report(payload=[1])[envelope.BODY_KEY], name="f", request_id=5, transform_id=9)
    assert read(json.loads(body)) == [(0, [1])]
    assert json.loads(body)["ret"][:2] == [True, [1]]  # what iDDS's own tools read


def test_repeats_are_left_to_who_counts() -> None:
    assert read(report(), report()) == [(0, 1), (0, 1)]


def test_records_without_a_report_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    records = [
        JobRecord(panda_id=1, job=0, attempt=1, status="failed"),
        JobRecord(panda_id=2, job=0, attempt=2, status="finished", report={"exitCode": 0}),
        JobRecord(panda_id=3, job=0, attempt=3, status="finished", report=report(key="afabcd00000000000000")),
        JobRecord(panda_id=4, job=0, attempt=4, status="finished", report=report(payload="here")),
    ]
    found = list(verified_results(records, key=SIGNING_KEY, task_key=KEY))
    assert [each.payload for each in found] == ["here"]
    assert caplog.text.count("ignored") == 1
    assert "PandaID 3" in caplog.text
