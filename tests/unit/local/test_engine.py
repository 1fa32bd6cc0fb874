"""The engine on a store, with a clock of the test's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_panda.local.jedi import EMBEDDED_PILOT, AttemptReport, Engine
from airflow_provider_panda.local.jedi.engine import PUT_OFF
from airflow_provider_panda.local.options import GridOptions
from airflow_provider_panda.local.state import Command, JobState, TaskState
from airflow_provider_panda.local.store import Store, TaskRow, as_json

from .test_refine import BASE


class Said:
    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def publish(self, destination: str, body: str) -> None:
        self.messages.append(json.loads(body))


class Desk:
    """An engine, and what one does with it."""

    def __init__(self, data: Path, queues: tuple[str, ...] = ("LOCAL",)) -> None:
        self.said = Said()
        self.store = Store(data / "grid.sqlite")
        options = GridOptions(
            data=data, queues=queues, register_delay=10, retry_delay=5, finish_delay=4, command_delay=3, report_delay=2
        )
        self.engine = Engine(self.store, options, self.said, "http://grid")
        self.now = 1_000_000.0

    def submit(self, **changes: Any) -> int:
        params = {**BASE, "pfnList": ["a"], "maxAttempt": 1, **changes}
        task_id = self.store.tasks.insert(
            name=params["taskName"], owner="A", nickname="a", vo=params["vo"], label="user", state=TaskState.WAITING,
            params=as_json(params), site=params.get("site"), created=self.now, modified=self.now,
            state_changed=self.now, due=self.now + 10,
        )  # fmt: skip
        self.store.commit()
        return task_id

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for _ in range(1000):
            if not self.engine.step(self.now):
                return
        raise AssertionError("the engine does not come to rest")

    def task(self, task_id: int) -> TaskRow:
        task = self.store.tasks.get(task_id)
        assert task is not None
        return task

    def run(self, *, finished: bool, limit: int = 100) -> int:
        jobs = self.engine.attempts.take(EMBEDDED_PILOT, limit=limit, now=self.now, host="h")
        for job in jobs:
            job = self.engine.attempts.running(self.engine.attempts.starting(job, self.now), self.now)
            report = AttemptReport(finished=finished, exit_code=0 if finished else 3, metadata="{}")
            self.engine.attempts.ended(job, report, self.now)
        return len(jobs)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.store.close()


def test_the_way_of_a_task(desk: Desk) -> None:
    task_id = desk.submit()
    desk.pass_time(9)
    assert desk.task(task_id).state is TaskState.WAITING
    desk.pass_time(1)
    assert desk.task(task_id).state is TaskState.RUNNING
    assert desk.run(finished=True) == 1
    desk.pass_time(1)
    assert desk.store.jobs.counts(task_id) == {"holding": 1}
    desk.pass_time(1)
    assert desk.store.jobs.counts(task_id) == {"finished": 1}
    assert desk.task(task_id).state is TaskState.RUNNING
    desk.pass_time(2)
    assert desk.task(task_id).state is TaskState.PREPARED
    desk.pass_time(2)
    assert desk.task(task_id).state is TaskState.DONE
    assert desk.task(task_id).ended == desk.now
    said = [m["status"] for m in desk.said.messages if m["msg_type"] == "task_status"]
    assert said == ["defined", "running", "prepared", "done"]


def test_attempts_then_failure(desk: Desk) -> None:
    task_id = desk.submit(maxAttempt=2)
    desk.pass_time(10)
    desk.run(finished=False)
    desk.pass_time(2)
    assert desk.store.jobs.counts(task_id) == {"failed": 1, "pending": 1}
    assert desk.run(finished=False) == 0
    desk.pass_time(5)
    assert desk.run(finished=False) == 1
    desk.pass_time(2)
    desk.pass_time(4)
    assert desk.task(task_id).state is TaskState.PREPARED
    desk.pass_time(2)
    task = desk.task(task_id)
    assert (task.state, task.n_failed, task.open_jobs) == (TaskState.FAILED, 1, 0)
    assert [j.attempt for j in desk.store.jobs.of(task_id)] == [1, 2]
    assert [j.serial for j in desk.store.jobs.of(task_id)] == [1, 2]


def test_kill_while_jobs_are_in_every_state(desk: Desk) -> None:
    task_id = desk.submit(pfnList=[str(i) for i in range(120)])
    desk.pass_time(10)
    assert desk.store.jobs.counts(task_id) == {"activated": 120}
    held, sent, _ = desk.engine.attempts.take(EMBEDDED_PILOT, limit=3, now=desk.now, host="h")
    desk.engine.attempts.ended(desk.engine.attempts.running(held, desk.now), AttemptReport(finished=True), desk.now)
    killed: list[int] = []
    desk.engine.attempts.on_kill = killed.append
    desk.engine.commands.take(desk.task(task_id), Command.KILL, by="A", now=desk.now)
    assert desk.task(task_id).state is TaskState.ABORTING
    desk.pass_time(3)
    assert desk.store.jobs.counts(task_id) == {"cancelled": 117, "finished": 1, "sent": 2}
    assert sent.panda_id in killed
    assert desk.task(task_id).state is TaskState.ABORTING
    for panda_id in killed:
        job = desk.store.jobs.get(panda_id)
        assert job is not None
        desk.engine.attempts.ended(job, AttemptReport(finished=False, exit_code=-15), desk.now)
    assert desk.task(task_id).state is TaskState.TOABORT
    desk.pass_time(4)
    task = desk.task(task_id)
    assert (task.state, task.n_finished, task.n_failed, task.open_jobs) == (TaskState.ABORTED, 1, 0, 0)

    desk.engine.commands.take(task, Command.RETRY, by="A", now=desk.now)
    desk.pass_time(3)
    assert desk.store.jobs.counts(task_id) == {"cancelled": 119, "finished": 1, "activated": 119}
    assert desk.run(finished=True, limit=200) == 119
    desk.pass_time(2)
    desk.pass_time(4)
    desk.pass_time(4)
    assert desk.task(task_id).state is TaskState.DONE


def test_retry_while_running(desk: Desk) -> None:
    task_id = desk.submit(pfnList=["a", "b"])
    desk.pass_time(10)
    desk.run(finished=False, limit=1)
    desk.pass_time(2)
    assert desk.task(task_id).n_failed == 1
    assert desk.engine.commands.retry_running(desk.task(task_id), desk.now) == 1
    desk.pass_time(0)
    assert desk.store.jobs.counts(task_id) == {"failed": 1, "activated": 2}
    assert desk.task(task_id).n_failed == 0


def test_pause_holds_also_what_comes_later(desk: Desk) -> None:
    task_id = desk.submit(pfnList=["a", "b"], maxAttempt=2)
    desk.pass_time(10)
    (job,) = desk.engine.attempts.take(EMBEDDED_PILOT, limit=1, now=desk.now, host="h")
    desk.engine.commands.take(desk.task(task_id), Command.PAUSE, by="A", now=desk.now)
    desk.engine.attempts.ended(
        desk.engine.attempts.running(job, desk.now), AttemptReport(finished=False, exit_code=1), desk.now
    )
    desk.pass_time(2)
    desk.pass_time(5)
    assert desk.store.jobs.counts(task_id) == {"failed": 1, "throttled": 2}
    desk.engine.commands.take(desk.task(task_id), Command.RESUME, by="A", now=desk.now)
    desk.pass_time(0)
    assert desk.task(task_id).state is TaskState.RUNNING
    assert desk.store.jobs.counts(task_id) == {"failed": 1, "activated": 2}


def test_inputs_of_one_job_stay_together(desk: Desk) -> None:
    task_id = desk.submit(pfnList=["a", "b", "c"], nFilesPerJob=2)
    desk.pass_time(10)
    assert [j.parameters.split(" --")[0] for j in desk.store.jobs.of(task_id)] == ["-i \"['a', 'b']\"", "-i \"['c']\""]
    desk.run(finished=True, limit=1)
    desk.pass_time(2)
    assert desk.task(task_id).n_finished == 2


def test_a_lost_job_is_tried_again(desk: Desk) -> None:
    task_id = desk.submit(maxAttempt=2)
    desk.pass_time(10)
    (job,) = desk.engine.attempts.take(EMBEDDED_PILOT, limit=1, now=desk.now, host="h")
    desk.engine.attempts.running(job, desk.now)
    assert [j.panda_id for j in desk.engine.attempts.recover(desk.now)] == [job.panda_id]
    desk.pass_time(5)
    assert desk.store.jobs.counts(task_id) == {"failed": 1, "activated": 1}


def test_an_outside_pilot_that_falls_silent_loses_its_job(desk: Desk) -> None:
    task_id = desk.submit(maxAttempt=2)
    desk.pass_time(10)
    (job,) = desk.engine.attempts.take("outside:w", limit=1, now=desk.now, host="w")
    desk.engine.attempts.running(job, desk.now)
    desk.pass_time(3600)
    assert desk.store.jobs.counts(task_id) == {"running": 1}
    desk.pass_time(6 * 3600)
    assert desk.store.jobs.counts(task_id)["failed"] == 1


def test_a_task_that_cannot_be_moved_does_not_hold_up_others(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    bad, good = desk.submit(), desk.submit(taskName="user.a.c")
    desk.store.tasks.update(bad, params="no json")
    desk.pass_time(10)
    assert desk.task(good).state is TaskState.RUNNING
    assert desk.task(bad).state is TaskState.WAITING
    assert "a step failed" in caplog.text
    assert desk.task(bad).due == desk.now + PUT_OFF


def test_unknown_queue_waits_for_it(tmp_path: Path) -> None:
    without = Desk(tmp_path)
    task_id = without.submit(site="LATER")
    without.pass_time(10)
    assert without.task(task_id).state is TaskState.PENDING
    without.store.close()
    desk = Desk(tmp_path, queues=("LATER",))
    desk.now = without.now
    desk.pass_time(5)
    assert desk.task(task_id).state is TaskState.RUNNING
    assert desk.task(task_id).error_dialog is None
    assert {j.queue for j in desk.store.jobs.of(task_id)} == {"LATER"}
    desk.store.close()


def test_everything_is_still_there_after_reopening(tmp_path: Path) -> None:
    first = Desk(tmp_path)
    task_id = first.submit(pfnList=["a", "b"])
    first.pass_time(10)
    first.run(finished=True, limit=1)
    first.store.close()
    second = Desk(tmp_path)
    second.now = first.now
    second.pass_time(2)
    assert second.store.jobs.counts(task_id) == {"finished": 1, "activated": 1}
    assert second.run(finished=True) == 1
    for seconds in (2, 2, 2):
        second.pass_time(seconds)
    assert second.task(task_id).state is TaskState.DONE
    assert second.store.jobs.of(task_id)[0].state is JobState.FINISHED
    second.store.close()
