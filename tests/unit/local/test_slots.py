"""Who gets a slot, and when, on the engine with a clock of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_panda.local.jedi import AttemptReport
from airflow_provider_panda.local.slots import Slots
from airflow_provider_panda.local.store import JobRow

from .test_engine import Desk


class Started:
    """A desk whose jobs get slots, and the jobs that did."""

    def __init__(self, desk: Desk, count: int) -> None:
        self.desk = desk
        self.jobs: list[JobRow] = []
        self.slots = Slots(desk.engine, count, "h", self.jobs.append)

    def end(self, job: JobRow) -> None:
        desk = self.desk
        desk.engine.attempts.ended(desk.engine.attempts.running(job, desk.now), AttemptReport(finished=True), desk.now)
        self.slots.release(job.panda_id)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    desk = Desk(tmp_path)
    yield Started(desk, 2)
    desk.store.close()


def test_the_step_fills_free_slots_at_its_own_time_and_no_more(started: Started) -> None:
    task_id = started.desk.submit(pfnList=["a", "b", "c"])
    started.desk.pass_time(10)
    assert [job.chunk for job in started.jobs] == [0, 1]
    assert {job.modified for job in started.jobs} == {started.desk.now}
    assert started.slots.free() == 0
    started.desk.pass_time(0)
    assert started.desk.store.jobs.counts(task_id) == {"sent": 2, "activated": 1}


def test_a_released_slot_goes_to_the_job_that_waited_longest(started: Started) -> None:
    started.desk.submit(pfnList=["a", "b", "c", "d"])
    started.desk.pass_time(10)
    started.end(started.jobs[1])
    assert started.slots.free() == 1
    started.desk.pass_time(0)
    assert [job.chunk for job in started.jobs] == [0, 1, 2]


def test_a_waiting_job_counts_as_due_only_while_a_slot_is_free(started: Started) -> None:
    started.desk.submit(pfnList=["a", "b", "c"])
    assert started.desk.engine.next_due() == started.desk.now + 10
    started.desk.pass_time(10)
    assert started.desk.engine.next_due() is None
    started.end(started.jobs[0])
    assert started.desk.engine.next_due() == started.desk.now


def test_closed_slots_stay_empty(started: Started) -> None:
    started.slots.close()
    started.desk.submit()
    started.desk.pass_time(10)
    assert (started.jobs, started.slots.free()) == ([], 0)
