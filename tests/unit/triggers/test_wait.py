"""A wait for a task through iDDS: what is told when, by whom, and what is asked of whom; no broker at all."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import Any

import pytest

from airflow_provider_panda import configuration
from airflow_provider_panda.exceptions import GridRefusedError, GridUnreachableError, TaskNotFoundError
from airflow_provider_panda.grid.outcome import CallPolicy
from airflow_provider_panda.grid.task import JobRecord
from airflow_provider_panda.payload.envelope import BODY_KEY
from airflow_provider_panda.payload.result import read_body
from airflow_provider_panda.triggers import wait as module
from airflow_provider_panda.triggers.event import INLINE_LIMIT, FunctionEvent, Outcome
from airflow_provider_panda.triggers.wait import Awaited, Wait
from tests.unit.triggers.scripted import (
    KEY,
    REQUEST,
    TASK,
    TRANSFORM,
    Idds,
    Panda,
    report,
    request,
    shared,
    task,
    transform,
)

PATIENCE = 60.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "poll_interval", lambda: 0.02)
    monkeypatch.setattr(module, "LATE_REPORTS", (0.01, 0.01, 0.01))
    monkeypatch.setattr(module, "EXPLANATION_PATIENCE", 0.05)


def awaited(n_jobs: int = 1, **fields: Any) -> Awaited:
    of_policy = {name: fields.pop(name) for name in ("on_job_error", "keep_below") if name in fields}
    policy = CallPolicy(n_jobs=n_jobs, **of_policy)
    given = {
        "task_key": KEY, "task_id": None, "task_name": "n_5_9", "processing_type": "airflow-abcd", "policy": policy,
        "request_id": REQUEST, "transform_id": TRANSFORM, **fields,
    }  # fmt: skip
    return Awaited(**given)


def waiting(idds: Idds, panda: Panda, what: Awaited | None = None, told: list[int] | None = None) -> Wait:
    return Wait(
        what or awaited(),
        shared(idds, panda),
        log=logging.getLogger("the task"),
        on_task_id=(told if told is not None else []).append,
    )


async def over(wait: Wait) -> FunctionEvent:
    async with asyncio.timeout(PATIENCE):
        return await wait.until_over()


def record(**fields: Any) -> JobRecord:
    return JobRecord(**{"panda_id": 1, "job": 0, "attempt": 1, "status": "finished", **fields})


async def no_polls() -> None:
    """Wait until no board asks any more."""
    async with asyncio.timeout(PATIENCE):
        while [t for t in asyncio.all_tasks() if t.get_name().startswith(("idds-request-", "panda-status-board"))]:
            await asyncio.sleep(0)


async def test_an_id_that_idds_tells_late_leads_to_panda() -> None:
    idds = Idds(
        request(transform()), request(transform("Transforming")), request(transform("Transforming", task_id=TASK))
    )
    panda = Panda(TaskNotFoundError("not yet"), task("running"), task("done", finished=1))
    panda.records = [record(report=report(payload=[42]))]
    told: list[int] = []

    event = await over(waiting(idds, panda, told=told))

    assert told == [TASK]
    assert event.outcome is Outcome.COMPLETE
    assert event.results == [{"job": 0, "payload": [42]}]
    assert (event.task_id, event.request_id, event.transform_id) == (TASK, REQUEST, TRANSFORM)
    assert set(panda.listed) == {"airflow-abcd"}
    listed = idds.listed
    assert listed == 3  # iDDS is not asked any more once PanDA can be
    await no_polls()


async def test_what_idds_stored_is_taken_before_anybody_knows_the_task() -> None:
    idds = Idds()
    idds.stored = [report(payload="stored")]

    event = await over(waiting(idds, Panda()))

    assert (event.outcome, event.results) == (Outcome.COMPLETE, [{"job": 0, "payload": "stored"}])
    assert (event.task_id, event.ended) == (None, False)
    assert idds.asked_messages == [(REQUEST, TRANSFORM, KEY)]
    await no_polls()


async def test_only_verified_messages_of_this_task_are_taken(caplog: pytest.LogCaptureFixture) -> None:
    forged = report(payload="forged")
    forged[BODY_KEY] = {**forged[BODY_KEY], "signature": "0" * 64}
    idds = Idds(request(transform()), request(transform("Failed")))
    idds.stored = [
        forged,
        report(key="afabcd00000000000000", payload="another's"),
        {"ret": [True, 1, None, {}]},
        3,
        None,
    ]

    event = await over(waiting(idds, Panda()))

    assert event.outcome is Outcome.ENDED
    assert event.results == []
    assert caplog.text.count("message that iDDS stored ignored") >= 5


async def test_a_transform_that_failed_without_a_task_ends_the_wait() -> None:
    idds = Idds(request(transform()), request(transform("Failed")))

    event = await over(waiting(idds, Panda(), awaited(n_jobs=2)))

    assert (event.outcome, event.ended, event.task_id) == (Outcome.ENDED, True, None)
    assert event.error is not None
    assert event.error.startswith(f"iDDS transform {TRANSFORM} is Failed, and iDDS tells no reason")
    assert event.missing == (0, 1)
    assert len(idds.asked_messages) >= 2  # once more before the verdict
    await no_polls()


async def test_idds_own_words_on_it_are_passed_on() -> None:
    idds = Idds(request(transform("Failed"), errors="submit_err: brokerage"))
    event = await over(waiting(idds, Panda()))
    assert event.error == f"iDDS transform {TRANSFORM} is Failed: submit_err: brokerage"


@pytest.mark.parametrize("gone", [None, request(status="Finished")], ids=["no request", "ended without it"])
async def test_a_transform_that_is_gone_ends_the_wait(gone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNSEEN_PATIENCE", 0.1)
    event = await over(waiting(Idds(gone), Panda()))
    assert event.outcome is Outcome.ENDED
    assert event.error == f"iDDS does not know transform {TRANSFORM} any more"


async def test_a_transform_that_is_not_listed_yet_is_waited_for() -> None:
    """In more listings than make one count as gone: they follow a submission closely, and iDDS may be slow."""
    unseen = [request(), None] * module.UNSEEN_LIMIT
    idds = Idds(*unseen, request(transform(task_id=TASK)))
    panda = Panda(task("done", finished=1), records=[record(report=report())])
    event = await over(waiting(idds, panda))
    assert event.outcome is Outcome.COMPLETE


async def test_the_last_look_may_find_the_value_of_a_transform_that_failed() -> None:
    class Late(Idds):
        async def messages(self, *args: Any, **fields: Any) -> list[Any]:
            found = await super().messages(*args, **fields)
            self.stored = [report()]
            return found

    event = await over(waiting(Late(request(transform("Failed"))), Panda()))
    assert (event.outcome, event.results) == (Outcome.COMPLETE, [{"job": 0, "payload": 1}])


async def test_errors_of_idds_end_nothing() -> None:
    idds = Idds(
        GridUnreachableError("away"),
        GridRefusedError("not yours"),
        request(transform("Transforming", task_id=TASK)),
    )
    idds.stored = GridUnreachableError("away")
    panda = Panda(task("done", finished=1), records=[record(report=report())])
    event = await over(waiting(idds, panda))
    assert event.outcome is Outcome.COMPLETE


async def test_large_values_that_come_before_the_id_wait_for_it() -> None:
    """The operator reads them from PanDA's record, for which it needs the id."""
    large = "x" * (INLINE_LIMIT + 1)
    idds = Idds(*[request(transform())] * 4, request(transform("Transforming", task_id=TASK)))
    idds.stored = [report(payload=large)]
    panda = Panda(task("running"), task("done", finished=1))

    event = await over(waiting(idds, panda))

    assert (event.outcome, event.results, event.task_id) == (Outcome.COMPLETE, None, TASK)
    assert idds.listed >= 5
    await no_polls()


async def test_large_values_of_a_transform_without_a_task_do_not_wait_for_ever() -> None:
    idds = Idds(request(transform()), request(transform("Failed")))
    idds.stored = [report(payload="x" * (INLINE_LIMIT + 1))]
    event = await over(waiting(idds, Panda()))
    assert (event.outcome, event.results, event.task_id, event.ended) == (Outcome.COMPLETE, None, None, True)


async def test_a_task_that_ended_without_a_result_is_told_with_pandas_words() -> None:
    idds = Idds(request(transform("Transforming", task_id=TASK)))
    panda = Panda(task("failed", failed=1, error="no queue"))
    event = await over(waiting(idds, panda))
    assert (event.outcome, event.status, event.error, event.missing) == (Outcome.ENDED, "failed", "no queue", (0,))
    assert event.where == f"{KEY} (PanDA task {TASK}, iDDS request {REQUEST}, transform {TRANSFORM})"


async def test_a_job_that_raised_fails_the_call() -> None:
    idds = Idds(request(transform("Transforming", task_id=TASK)))
    idds.stored = [report(status="raised", payload=None)]
    event = await over(waiting(idds, Panda(task("running"))))
    assert event.outcome is Outcome.FAILED
    assert [(each.type, each.traceback) for each in event.failures] == [("ValueError", "Traceback: no")]


async def test_known_ids_do_without_listings_of_the_request() -> None:
    idds = Idds()
    panda = Panda(task("done", finished=1), records=[record(report=report())])
    event = await over(waiting(idds, panda, awaited(task_id=TASK)))
    assert event.outcome is Outcome.COMPLETE
    assert idds.listed == 0
    assert idds.asked_messages  # but what iDDS stored is read


async def test_without_idds_nothing_of_it_is_asked() -> None:
    idds = Idds()
    panda = Panda(task("done", finished=1), records=[record(report=report())])
    event = await over(waiting(idds, panda, awaited(task_id=TASK, request_id=None, transform_id=None)))
    assert event.outcome is Outcome.COMPLETE
    assert (idds.listed, idds.asked_messages) == (0, [])


async def test_the_deadline_holds_while_nothing_is_known() -> None:
    event = await over(waiting(Idds(), Panda(), awaited(deadline=time.time() + 0.2)))
    assert (event.outcome, event.task_id, event.missing) == (Outcome.DEADLINE, None, (0,))
    await no_polls()


async def test_the_deadline_holds_while_large_values_wait_for_their_id() -> None:
    idds = Idds()
    idds.stored = [report(payload="x" * (INLINE_LIMIT + 1))]
    event = await over(waiting(idds, Panda(), awaited(deadline=time.time() + 0.3)))
    assert event.outcome is Outcome.DEADLINE
    await no_polls()


async def test_a_cancelled_wait_leaves_no_poll_behind() -> None:
    waits = [asyncio.create_task(waiting(Idds(), Panda()).until_over()) for _ in range(5)]
    while not [t for t in asyncio.all_tasks() if t.get_name() == f"idds-request-{REQUEST}"]:
        await asyncio.sleep(0)
    for each in waits:
        each.cancel()
    assert all(
        isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(*waits, return_exceptions=True)
    )
    await no_polls()


async def test_many_who_wait_for_one_run_share_its_listings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "poll_interval", lambda: 0.5)
    idds, panda = Idds(request(transform("Failed"))), Panda()
    connection = shared(idds, panda)
    waits = [Wait(awaited(), connection, log=logging.getLogger("t")) for _ in range(20)]
    async with asyncio.timeout(PATIENCE):
        events = await asyncio.gather(*(each.until_over() for each in waits))
    assert {event.outcome for event in events} == {Outcome.ENDED}
    assert idds.listed == 1
    await no_polls()


def mapped(jobs: int, *, kind: str = "returned", payload: Any = 1) -> list[JobRecord]:
    """Return the records of finished jobs with reports of one kind."""
    return [record(panda_id=job + 1, job=job, report=report(job, payload, status=kind)) for job in range(jobs)]


async def test_many_failures_and_no_value_fit_an_event_with_counts() -> None:
    panda = Panda(task("done", finished=2000), records=mapped(2000, kind="raised", payload=None))
    event = await over(waiting(Idds(), panda, awaited(2000, task_id=TASK, on_job_error="collect")))
    assert event.outcome is Outcome.COMPLETE
    assert event.n_failures == 2000
    assert event.failed_jobs == frozenset(range(2000))
    assert 5 < len(event.failures) < 2000
    assert len(json.dumps(event.to_json())) <= INLINE_LIMIT


async def test_jobs_that_are_missing_are_counted_beyond_those_that_are_named() -> None:
    panda = Panda(task("aborted"))
    event = await over(waiting(Idds(), panda, awaited(5000, task_id=TASK)))
    assert (event.outcome, event.n_missing) == (Outcome.ENDED, 5000)
    assert event.missing == tuple(range(len(event.missing)))
    assert len(json.dumps(event.to_json())) <= INLINE_LIMIT


async def test_many_small_values_wait_until_panda_has_recorded_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """For an event they are too many bytes, and nobody keeps them: the operator reads PanDA's record."""
    idds = Idds(request(transform("Transforming", task_id=TASK)))
    idds.stored = [report(job, "x" * 50) for job in range(2000)]
    panda = Panda(*[task("running", finished=1)] * 2, task("running", finished=1999))
    looks = 0
    sleep = asyncio.sleep

    async def pause(seconds: float) -> None:
        nonlocal looks
        if seconds >= 2.0:  # between looks at the record
            looks += 1
        if looks == 3:
            panda.states[:] = [task("running", finished=2000)]
        await sleep(min(seconds, 0.01))

    monkeypatch.setattr(asyncio, "sleep", pause)
    wait = waiting(idds, panda, awaited(2000, task_id=TASK))
    event = await over(wait)
    assert wait.tally.values is None
    assert (event.outcome, event.results, event.n_failures, event.n_missing) == (Outcome.COMPLETE, None, 0, 0)
    assert looks >= 3


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Make pauses short, and tell how long they would have been."""
    waited: list[float] = []
    sleep = asyncio.sleep

    async def pause(seconds: float) -> None:
        waited.append(seconds)
        await sleep(min(seconds, 0.01))

    monkeypatch.setattr(asyncio, "sleep", pause)
    return waited


def told(panda: Panda, what: Awaited, *reports: dict[str, Any]) -> Wait:
    """Return a wait that has heard these reports by message."""
    wait = waiting(Idds(), panda, what)
    for each in reports:
        wait._take_result(read_body(each, key=wait.signing_key, task_key=KEY))
    return wait


ONE_OF_TWO_FAILED = (report(0), report(1, None, status="raised"))


async def test_a_value_that_a_retry_keeps_is_waited_for_until_panda_has_recorded_it(pauses: list[float]) -> None:
    panda = Panda(*[task("running")] * 6, task("running", finished=1))
    what = awaited(2, task_id=TASK, on_job_error="collect", keep_below=2, carried="the note")
    event = await over(told(panda, what, *ONE_OF_TWO_FAILED))
    assert (event.outcome, event.n_failures, event.status, event.ended) == (Outcome.COMPLETE, 1, "running", False)
    assert [failure.job for failure in event.failures] == [1]
    assert event.carried == "the note"
    assert len([seconds for seconds in pauses if seconds >= 2.0]) >= 3


@pytest.mark.parametrize("keep_below", [0, 1])
async def test_values_that_are_enough_are_told_at_once(pauses: list[float], keep_below: int) -> None:
    what = awaited(2, task_id=TASK, on_job_error="collect", keep_below=keep_below)
    event = await over(told(Panda(task("running")), what, *ONE_OF_TWO_FAILED))
    assert (event.outcome, event.n_failures) == (Outcome.COMPLETE, 1)
    assert not [seconds for seconds in pauses if seconds >= 2.0]


async def test_where_nothing_returned_nothing_is_waited_for(pauses: list[float]) -> None:
    reports = [report(job, None, status="raised") for job in range(2)]
    what = awaited(2, task_id=TASK, on_job_error="collect", keep_below=2)
    event = await over(told(Panda(task("running")), what, *reports))
    assert event.n_failures == 2
    assert not [seconds for seconds in pauses if seconds >= 2.0]


async def test_at_the_deadline_failures_are_told_though_values_are_not_recorded() -> None:
    what = awaited(2, task_id=TASK, on_job_error="collect", keep_below=2, deadline=time.time() + 0.3)
    event = await over(told(Panda(task("running")), what, *ONE_OF_TWO_FAILED))
    assert (event.outcome, event.n_failures) == (Outcome.COMPLETE, 1)


async def test_the_deadline_is_one_where_jobs_still_run() -> None:
    what = awaited(3, task_id=TASK, on_job_error="collect", keep_below=3, deadline=time.time() + 0.3)
    event = await over(told(Panda(task("running")), what, *ONE_OF_TWO_FAILED))
    assert (event.outcome, event.n_failures, event.missing) == (Outcome.DEADLINE, 1, (2,))


async def test_through_idds_the_id_is_waited_for_as_well(pauses: list[float]) -> None:
    idds = Idds(*[request(transform())] * 3, request(transform("Transforming", task_id=TASK)))
    idds.stored = list(ONE_OF_TWO_FAILED)
    panda = Panda(task("running"), task("running", finished=1))
    event = await over(waiting(idds, panda, awaited(2, on_job_error="collect", keep_below=2)))
    assert (event.outcome, event.n_failures, event.task_id) == (Outcome.COMPLETE, 1, TASK)
    await no_polls()


async def test_a_task_that_ended_without_a_value_of_a_job_keeps_the_others() -> None:
    panda = Panda(task("finished", finished=1, failed=1), records=[record(report=report())])
    what = awaited(2, task_id=TASK, on_job_error="collect", keep_below=2)
    event = await over(waiting(Idds(), panda, what))
    assert (event.outcome, event.ended) == (Outcome.COMPLETE, True)
    assert [(failure.job, failure.type) for failure in event.failures] == [(1, "JobMissing")]


async def test_what_is_carried_leaves_its_room() -> None:
    panda = Panda(task("done", finished=2000), records=mapped(2000, kind="raised", payload=None))
    what = awaited(2000, task_id=TASK, on_job_error="collect", keep_below=2000, carried="x" * 32 * 1024)
    event = await over(waiting(Idds(), panda, what))
    assert event.carried == "x" * 32 * 1024
    assert len(json.dumps(event.to_json())) <= INLINE_LIMIT


async def test_reading_the_record_stops_when_everything_is_known() -> None:
    panda = Panda(task("running", finished=3), records=mapped(3))
    panda.records.append(record(panda_id=9, job=0, attempt=2, report=report(0, "late")))
    wait = waiting(Idds(), panda, awaited(3, task_id=TASK))
    event = await over(wait)
    assert event.results == [{"job": job, "payload": 1} for job in range(3)]
    assert panda.read == 3


async def test_a_record_that_will_not_change_is_read_once() -> None:
    """A job that PanDA counts and whose report it does not have yet must not have thousands of others read again."""
    panda = Panda(task("running", finished=3), records=mapped(3))
    late = panda.records.pop()
    panda.records.append(record(panda_id=late.panda_id, job=late.job))  # finished, and its report is not there yet
    wait = waiting(Idds(), panda, awaited(3, task_id=TASK))
    waited = asyncio.create_task(over(wait))
    async with asyncio.timeout(PATIENCE):
        while panda.read < 5:
            await asyncio.sleep(0.01)
    assert wait.read == {each.panda_id for each in panda.records[:2]}
    panda.records[-1] = late
    event = await waited
    assert event.results == [{"job": job, "payload": 1} for job in range(3)]


async def test_the_record_of_an_ended_task_is_asked_for_ever_more_seldom_while_it_cannot_be_had(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away(Panda):
        def record_batches(self, task_id: int, *, without: Any = frozenset()) -> Any:
            self.read += 1
            if self.read < 6:
                raise GridUnreachableError("connection refused")
            return super().record_batches(task_id, without=without)

    panda = Away(task("done", finished=1), records=[record(report=report())])
    wait = waiting(Idds(), panda, awaited(task_id=TASK, request_id=None, transform_id=None))
    pauses: list[float] = []
    real = wait._pause_after_end

    def noted() -> float:
        pauses.append(real())
        return 0.001

    monkeypatch.setattr(wait, "_pause_after_end", noted)
    event = await over(wait)
    assert event.outcome is Outcome.COMPLETE
    assert pauses == sorted(pauses)
    assert pauses[-1] >= pauses[0] * 8
    assert caplog.text.count("could not be asked") == 1


def test_the_pause_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LATE_REPORTS", (5.0, 15.0, 40.0))
    wait = waiting(Idds(), Panda())
    assert wait._pause_after_end() == 5
    wait.unread = 1000
    assert wait._pause_after_end() == module.LONGEST_BACK_OFF


async def test_a_task_that_stands_still_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_panda.grid.stillness.PATIENCE", 0.05)
    panda = Panda(*[task("registered")] * 30, task("done", finished=1), records=[record(report=report())])
    event = await over(waiting(Idds(), panda, awaited(task_id=TASK, request_id=None, transform_id=None)))
    assert event.outcome is Outcome.COMPLETE
    assert caplog.text.count("ask PanDA's operators whether JEDI runs") == 1
