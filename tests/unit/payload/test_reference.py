"""Whether the result store still has a value: nothing is fetched for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_provider_panda.payload import envelope
from airflow_provider_panda.payload.reference import reference_is_gone
from airflow_provider_panda.payload.result import JobResult, read_body
from tests.stack.scripted_panda import body, lose, scripted_panda, status

KEY, SIGNING_KEY = "afabcdefghijklmnopqr", b"key"


def result(payload: Any, encoding: str = "reference") -> JobResult:
    said = {
        "task_key": KEY, "job": 0, "attempt": 1, "status": "returned", "encoding": encoding, "payload": payload,
        "exception": None, "start": 1.0, "end": 2.0, "host": "h", "site": "S", "panda_id": 3, "python": "3.12.1",
    }  # fmt: skip
    return read_body({envelope.BODY_KEY: envelope.sign(said, SIGNING_KEY)}, key=SIGNING_KEY, task_key=KEY)


@pytest.mark.parametrize(
    ("script", "gone"),
    [(body("a value"), False), (status(404), True), (status(410), True), (status(405), False), (status(503), False),
     (lose(), False)],
    ids=["there", "404", "410", "no HEAD", "down", "no answer"],
)  # fmt: skip
def test_what_the_store_says(script: Any, gone: bool) -> None:
    with scripted_panda() as store:
        store.on("/store/value", script)
        assert reference_is_gone(result({"url": f"{store.url}/store/value"}), result_store=f"{store.url}/store") is gone
        assert [seen.method for seen in store.calls("/store/value")] == ["HEAD"]


def test_a_store_that_cannot_be_reached_may_have_it() -> None:
    assert not reference_is_gone(result({"url": "http://127.0.0.1:1/value"}), result_store="http://127.0.0.1:1")


def test_files(tmp_path: Path) -> None:
    (tmp_path / "value").write_text("1")
    assert not reference_is_gone(result({"url": (tmp_path / "value").as_uri()}), result_store=tmp_path.as_uri())
    assert reference_is_gone(result({"url": (tmp_path / "other").as_uri()}), result_store=tmp_path.as_uri())


@pytest.mark.parametrize("payload", [None, {}, {"url": 3}, {"url": "ftp://store/x"}, {"url": "https://elsewhere/x"}])
def test_what_leads_nowhere_is_gone(payload: Any) -> None:
    assert reference_is_gone(result(payload), result_store="ftp://store")
    assert reference_is_gone(result({"url": "http://127.0.0.1:1/value"}), result_store=None)


def test_what_leads_out_of_the_store_is_not_asked_for(tmp_path: Path) -> None:
    (tmp_path / "value").write_text("1")
    (tmp_path / "store").mkdir()
    assert reference_is_gone(
        result({"url": f"{tmp_path.as_uri()}/store/../value"}), result_store=(tmp_path / "store").as_uri()
    )


def test_a_value_that_came_along_is_there() -> None:
    assert not reference_is_gone(result([1, 2], "json"), result_store=None)
