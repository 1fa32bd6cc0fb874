"""What the results of a call amount to: which attempt wins, what is final, when it is over."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from airflow_provider_panda.grid.outcome import (
    HEAD_LENGTH,
    TEXTS_LIMIT,
    VALUES_LIMIT,
    CallPolicy,
    Tally,
    Value,
    Verdict,
)
from airflow_provider_panda.grid.task import JobRecord, Phase
from airflow_provider_panda.payload.result import JobResult, RemoteException
from airflow_provider_panda.payload.runner import EXIT_RAISED, EXIT_REFUSED


def result(job: int = 0, attempt: int = 1, status: str = "returned", payload: Any = 1) -> JobResult:
    exception = None if status == "returned" else RemoteException(type="ValueError", message="no", traceback="tb")
    return JobResult(
        job=job,
        attempt=attempt,
        status=status,
        encoding="json",
        payload=payload,
        exception=exception,
        start=0.0,
        end=1.0,
        host="node",
        site="SITE",
        panda_id=7,
        python="3.12.1",
        envelope={},
    )


def record(job: int = 0, attempt: int = 1, status: str = "failed") -> JobRecord:
    return JobRecord(panda_id=1, job=job, attempt=attempt, status=status, diagnostics="pilot 1305: lost")


def tally(n_jobs: int = 1, **policy: Any) -> Tally:
    return Tally(CallPolicy(n_jobs=n_jobs, **policy))


def test_first_value_wins_and_is_never_replaced() -> None:
    known = tally()
    assert known.add(result(payload="first"))
    assert not known.add(result(payload="again"))
    assert not known.add(result(attempt=2, status="raised"))
    assert known.values == {0: Value(job=0, payload="first")}
    assert known.failures == []


def test_later_attempt_replaces_a_failure() -> None:
    known = tally(retry_on_exception=True)
    assert known.add(result(status="raised"))
    assert known.verdict(Phase.ACTIVE, reconciled=False) is Verdict.WAIT
    assert known.add(result(attempt=2))
    assert known.verdict(Phase.ACTIVE, reconciled=False) is Verdict.COMPLETE
    assert known.failures == []


def test_value_after_a_final_failure_still_counts() -> None:
    known = tally(2)
    known.add(result(0, status="raised"))
    known.add(result(0, attempt=2))
    known.add(result(1))
    assert known.verdict(Phase.ACTIVE, reconciled=False) is Verdict.COMPLETE


@pytest.mark.parametrize("job", [-1, 1, 10**9])
def test_a_job_that_does_not_exist_is_ignored(job: int) -> None:
    known = tally()
    assert not known.add(result(job))
    assert not known.add_record(record(job))
    assert known.verdict(None, reconciled=False) is Verdict.WAIT


@pytest.mark.parametrize(
    ("status", "attempt", "retry", "final"),
    [
        ("raised", 1, False, True),
        ("raised", 1, True, False),
        ("raised", 3, True, True),
        ("refused", 1, True, True),
        ("unfit", 1, False, False),
        ("unfit", 3, False, True),
    ],
)
def test_what_is_final(status: str, attempt: int, retry: bool, final: bool) -> None:
    known = tally(max_attempt=3, retry_on_exception=retry)
    known.add(result(attempt=attempt, status=status))
    assert bool(known.final_failures) is final
    assert known.verdict(Phase.ACTIVE, reconciled=False) is (Verdict.FAILED if final else Verdict.WAIT)


@pytest.mark.parametrize(
    ("status", "attempt", "final"), [("failed", 1, False), ("failed", 3, True), ("cancelled", 3, False)]
)
def test_an_attempt_that_left_no_envelope(status: str, attempt: int, final: bool) -> None:
    known = tally(max_attempt=3)
    assert known.add_record(record(attempt=attempt, status=status))
    assert bool(known.final_failures) is final
    assert "lost" in known.failures[0].message


def test_an_envelope_tells_more_than_the_record_of_the_same_attempt() -> None:
    known = tally()
    known.add(result(status="raised"))
    assert not known.add_record(record(attempt=1))
    assert known.failures[0].type == "ValueError"


@pytest.mark.parametrize(
    ("exit_code", "retry", "final"),
    [(EXIT_RAISED, False, True), (EXIT_RAISED, True, False), (EXIT_REFUSED, True, True), (1, False, False)],
)
def test_an_exit_code_of_ours_tells_a_lost_message(exit_code: int, retry: bool, final: bool) -> None:
    known = tally(max_attempt=3, retry_on_exception=retry)
    known.add_record(dataclasses.replace(record(), exit_code=exit_code))
    assert bool(known.final_failures) is final
    assert known.explained is not final


def test_the_runners_last_line_names_the_exception() -> None:
    said = "payload 71: airflow-panda afk job 0 attempt 1: pkg.OddError: 1 is odd; pilot 1305: Failed: airflow-panda"
    known = tally()
    known.add_record(dataclasses.replace(record(), exit_code=EXIT_RAISED, diagnostics=said))
    assert known.failures[0].type == "pkg.OddError"
    assert known.failures[0].message.startswith("1 is odd (the message")


def test_a_later_message_explains_a_failure_known_from_the_record() -> None:
    known = tally()
    known.add_record(dataclasses.replace(record(), exit_code=EXIT_RAISED))
    assert known.add(result(attempt=2, status="raised"))
    assert known.explained
    assert known.failures[0].traceback == "tb"
    assert len(known.final_failures) == 1


def test_running_attempts_are_no_failures() -> None:
    assert not tally().add_record(record(status="running"))


def test_collect_waits_for_every_job_and_keeps_failures() -> None:
    known = tally(3, on_job_error="collect")
    known.add(result(0))
    known.add(result(1, status="raised"))
    assert known.verdict(Phase.ACTIVE, reconciled=False) is Verdict.WAIT
    known.add(result(2))
    assert known.verdict(Phase.ACTIVE, reconciled=False) is Verdict.COMPLETE
    assert [failure.job for failure in known.failures] == [1]
    assert known.missing == [1]


@pytest.mark.parametrize(
    ("phase", "reconciled", "verdict"),
    [
        (Phase.DONE, False, Verdict.WAIT),
        (Phase.DONE, True, Verdict.ENDED),
        (Phase.KILLED, True, Verdict.ENDED),
        (Phase.ENDING, True, Verdict.WAIT),
        (None, False, Verdict.WAIT),
    ],
)
def test_an_ended_task_with_missing_results(phase: Phase | None, reconciled: bool, verdict: Verdict) -> None:
    known = tally(2)
    known.add(result(0))
    assert known.verdict(phase, reconciled=reconciled) is verdict


def test_giving_up_settles_what_is_missing_and_keeps_what_is_known() -> None:
    known = tally(3, on_job_error="collect")
    known.add(result(0))
    known.add_record(record(1, status="cancelled"))
    known.give_up("the task ended")
    assert known.verdict(Phase.DONE, reconciled=True) is Verdict.COMPLETE
    assert [(f.job, f.type) for f in known.failures] == [(1, "JobCancelled"), (2, "JobMissing")]


@pytest.mark.parametrize(
    ("phase", "verdict"), [(Phase.ACTIVE, Verdict.WAIT), (Phase.ENDING, Verdict.WAIT), (Phase.DONE, Verdict.COMPLETE)]
)
def test_wait_for_task(phase: Phase, verdict: Verdict) -> None:
    known = tally(wait_for="task")
    known.add(result())
    assert known.verdict(phase, reconciled=False) is verdict


def test_of_a_value_its_payload_is_kept_and_the_envelope_only_where_it_is_needed() -> None:
    known = tally(2)
    known.add(dataclasses.replace(result(0, payload=[1]), envelope={"signed": "s"}))
    known.add(dataclasses.replace(result(1), encoding="reference", envelope={"signed": "s"}))
    assert known.values == {0: Value(job=0, payload=[1]), 1: Value(job=1, envelope={"signed": "s"})}


def test_more_values_than_an_event_carries_are_counted_and_not_kept() -> None:
    text = "x" * 1000
    fitting = VALUES_LIMIT // Value(job=10, payload=text).size
    known = tally(fitting + 3)
    for job in range(fitting):
        known.add(result(job, payload=text))
    assert known.values is not None
    assert len(known.values) == fitting
    assert known.add(result(fitting, payload=text))
    assert known.values is None
    assert not known.add(result(0, payload="again")), "what came stays settled, though its value is not kept"
    assert not known.add_record(record(0, status="failed"))
    assert (known.returned, known.settled, known.missing) == (fitting + 1, fitting + 1, [fitting + 1, fitting + 2])
    known.add(result(fitting + 1))
    assert known.values is None, "all or nothing"
    known.add(result(fitting + 2))
    assert known.verdict(None, reconciled=False) is Verdict.COMPLETE


def test_texts_are_kept_whole_up_to_a_limit_and_given_back_with_their_failure() -> None:
    long = RemoteException(type="E", message="m" * 1000, traceback="t" * (TEXTS_LIMIT // 2))
    known = tally(5, on_job_error="collect", retry_on_exception=True)
    for job in range(4):
        known.add(dataclasses.replace(result(job, status="raised"), exception=long))
    assert [len(failure.traceback) > 0 for failure in known.failures] == [True, True, False, False]
    assert known.failures[3].message == "m" * HEAD_LENGTH
    known.add(result(0, attempt=2))
    known.add(dataclasses.replace(result(4, status="raised"), exception=long))
    assert known.failures[-1].traceback == long.traceback


def test_counts_follow_what_is_known() -> None:
    known = tally(4, on_job_error="collect", retry_on_exception=True)
    known.add(result(0))
    known.add(result(1, status="raised"))
    known.add(result(2, status="refused"))
    assert (known.returned, known.n_failures, known.n_final_failures, known.n_unknown, known.settled) == (1, 2, 1, 1, 2)
    assert list(known.each_unknown()) == [3]
    assert list(known.has_value) == [1, 0, 0, 0]
    known.give_up("over")
    assert (known.returned, known.n_failures, known.n_final_failures, known.n_unknown, known.settled) == (1, 3, 3, 0, 4)
    assert list(known.each_unknown()) == []
    assert [(failure.job, failure.message) for failure in known.final_failures] == [(1, "no"), (2, "no"), (3, "over")]
    known.add(result(3))
    assert (known.n_failures, known.settled) == (2, 4)
