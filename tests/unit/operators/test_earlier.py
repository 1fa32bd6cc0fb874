"""What a try makes of what an earlier one left: the decision as a table, and what the store keeps."""

from __future__ import annotations

import itertools
import json
import logging
from dataclasses import replace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse

from airflow_provider_panda import configuration
from airflow_provider_panda.exceptions import ConfigurationError
from airflow_provider_panda.grid.task import PHASES, Phase
from airflow_provider_panda.operators import earlier
from airflow_provider_panda.operators.earlier import Choice, Left, Stage, Standing, choose, digest_of, standing_of
from airflow_provider_panda.operators.way import Submission
from tests.unit.operators.scene import Store

OWN, KEY = "afabcdefghijklmnopqr", "afabcd00000000000000"
LEFT = Left(
    key=KEY, by=KEY, name=f"n-{KEY}", kind="airflow-abcd", server="https://panda", through_idds=False, digest="same",
)  # fmt: skip


def expected(stage: Stage, on_retry: str, digest: str | None, standing: Standing) -> Choice:
    """The rule in one line: attach to what was never waited for, is the same, and is not over."""
    fits = stage is Stage.SUBMITTING and on_retry == "attach" and digest == "same"
    return Choice.ATTACH if fits and standing is not Standing.OVER else Choice.END


@pytest.mark.parametrize(
    ("stage", "on_retry", "digest", "standing"),
    list(itertools.product(Stage, ("attach", "resubmit"), ("same", "other", None), Standing)),
)
def test_what_becomes_of_an_earlier_try(stage: Stage, on_retry: Any, digest: str | None, standing: Standing) -> None:
    left = replace(LEFT, stage=stage)
    chosen = choose(left, own_key=OWN, on_retry=on_retry, digest=digest, standing=standing)
    assert chosen is expected(stage, on_retry, digest, standing)


@pytest.mark.parametrize(
    ("stage", "on_retry", "digest", "standing", "chosen"),
    [
        (Stage.SUBMITTING, "attach", "same", Standing.ALIVE, Choice.ATTACH),
        (Stage.SUBMITTING, "attach", "same", Standing.DONE, Choice.ATTACH),
        (Stage.SUBMITTING, "attach", "same", Standing.UNLISTED, Choice.ATTACH),
        (Stage.SUBMITTING, "attach", "same", Standing.OVER, Choice.END),
        (Stage.SUBMITTING, "attach", "other", Standing.ALIVE, Choice.END),
        (Stage.SUBMITTING, "resubmit", "same", Standing.ALIVE, Choice.END),
        (Stage.DEFERRING, "attach", "same", Standing.ALIVE, Choice.END),
        (Stage.ENDED, "attach", "same", Standing.ALIVE, Choice.END),
    ],
)
def test_the_table_by_hand(stage: Stage, on_retry: Any, digest: str, standing: Standing, chosen: Choice) -> None:
    left = replace(LEFT, stage=stage)
    assert choose(left, own_key=OWN, on_retry=on_retry, digest=digest, standing=standing) is chosen


def test_nothing_left() -> None:
    assert choose(None, own_key=OWN, on_retry="attach", digest=None, standing=Standing.UNLISTED) is Choice.NOTHING


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("on_retry", ["attach", "resubmit"])
@pytest.mark.parametrize("key", [OWN, KEY])
def test_the_same_try_again_goes_on_with_what_it_has(stage: Stage, on_retry: Any, key: str) -> None:
    """Its own key, or one that it took up: a second worker of one try must not kill the first one's task."""
    left = replace(LEFT, key=key, by=OWN, stage=stage)
    assert choose(left, own_key=OWN, on_retry=on_retry, digest="x", standing=Standing.OVER) is Choice.ATTACH


def test_every_state_of_panda_has_a_standing() -> None:
    over = {"failed", "broken", "exhausted", "aborted", "aborting", "toabort", "tobroken"}
    for status in PHASES:
        standing = standing_of(status, ("done",))
        assert standing is (
            Standing.DONE
            if status == "done"
            else Standing.OVER
            if status in over or status == "finished"
            else Standing.ALIVE
        ), status
    assert standing_of("finished", ("done", "finished")) is Standing.DONE
    assert standing_of("a state of next year", ("done",)) is Standing.ALIVE
    assert standing_of("", ("done",)) is Standing.ALIVE
    assert standing_of("failed", ("failed",)) is Standing.DONE
    assert {PHASES[status] for status in over} == {Phase.FAILED, Phase.KILLED, Phase.ENDING}


FULL = replace(
    LEFT, stage=Stage.DEFERRING, at=1.5, task_id=7, request_id=3, transform_id=9, through_idds=True, unended=(LEFT,)
)


@pytest.mark.parametrize("left", [LEFT, FULL])
def test_what_the_store_keeps_comes_back(left: Left) -> None:
    assert Left.from_json(json.loads(json.dumps(left.to_json()))) == left


@pytest.mark.parametrize(
    "stored",
    [
        "text",
        7,
        {},
        {**LEFT.to_json(), "stage": "lost"},
        {**LEFT.to_json(), "task_id": "7"},
        {**LEFT.to_json(), "at": None},
        {**LEFT.to_json(), "unended": [{}]},
    ],
)
def test_what_is_no_note_is_told_and_passed_over(stored: Any, caplog: pytest.LogCaptureFixture) -> None:
    context: Any = {"task_state_store": Store({earlier.STORE_KEY: stored})}
    with caplog.at_level(logging.WARNING):
        assert earlier.read(context) is None
    assert "airflow panda reap" in caplog.text


def test_without_a_store_nothing_is_known_and_nothing_fails() -> None:
    context: Any = {}
    earlier.write(context, LEFT)
    assert earlier.read(context) is None


def test_a_store_that_refuses_fails_no_submission(caplog: pytest.LogCaptureFixture) -> None:
    class Refusing(Store):
        def set(self, name: str, value: Any) -> None:
            raise RuntimeError("no rights")

    earlier.write({"task_state_store": Refusing()}, LEFT)  # type: ignore[typeddict-item]
    assert f"{KEY}: could not write to the task state store: no rights" in caplog.text


class Gone(Store):
    """What Airflow answers about a try that it has given up."""

    def set(self, name: str, value: Any) -> None:
        reason = {"reason": "not_found", "message": "Task instance 01a2 not found"}
        detail = {"status_code": 404, "message": "Server returned error", "detail": {"detail": reason}}
        raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail=detail))


def test_a_try_that_airflow_has_given_up_submits_nothing() -> None:
    context: Any = {"task_state_store": Gone()}
    with pytest.raises(AirflowException, match=f"{KEY}: Airflow has given this try up"):
        earlier.write(context, LEFT)


@pytest.mark.parametrize("stage", [Stage.DEFERRING, Stage.ENDED])
def test_what_it_has_submitted_is_the_next_trys(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    context: Any = {"task_state_store": Gone()}
    earlier.write(context, replace(LEFT, stage=stage))  # the note before the submission is there
    assert "could not write to the task state store" in caplog.text


@pytest.mark.parametrize(
    "detail",
    [None, {}, {"status_code": 404, "message": "no such route"}, {"status_code": 503, "detail": {"detail": "busy"}}],
)
def test_another_refusal_of_airflow_fails_no_submission(detail: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Refusing(Store):
        def set(self, name: str, value: Any) -> None:
            raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail=detail))

    earlier.write({"task_state_store": Refusing()}, LEFT)  # type: ignore[typeddict-item]
    assert "could not write to the task state store" in caplog.text


def test_ids() -> None:
    assert LEFT.submission is None
    taken = Submission(task_name=LEFT.name, task_id=7)
    assert LEFT.with_ids(taken).submission == taken
    assert FULL.submission == Submission(task_name=LEFT.name, task_id=7, request_id=3, transform_id=9)


def test_digest() -> None:
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})


@pytest.mark.parametrize(("value", "meant"), [("attach", "attach"), (" Resubmit ", "resubmit"), (None, "attach")])
def test_option(monkeypatch: pytest.MonkeyPatch, value: str | None, meant: str) -> None:
    if value is not None:
        monkeypatch.setenv("AIRFLOW__PANDA__ON_RETRY", value)
    assert configuration.on_retry() == meant


def test_an_unknown_option_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__PANDA__ON_RETRY", "again")
    with pytest.raises(ConfigurationError, match="Set it to attach or resubmit"):
        configuration.on_retry()
