"""A task that was submitted as a child waits for its parent."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_provider_panda.local.jedi import EMBEDDED_PILOT, AttemptReport
from airflow_provider_panda.local.machine import ParentWait, parent_wait
from airflow_provider_panda.local.state import Command, TaskState

from .test_engine import Desk


@pytest.mark.parametrize("state", [*TaskState, None])
@pytest.mark.parametrize("no_wait", [False, True])
def test_every_state_of_a_parent_means_something(state: TaskState | None, no_wait: bool) -> None:
    if state in (TaskState.DONE, TaskState.FINISHED):
        expected = ParentWait.GO
    elif state in (None, TaskState.FAILED, TaskState.ABORTED, TaskState.BROKEN):
        expected = ParentWait.BREAK
    else:
        expected = ParentWait.GO if no_wait else ParentWait.WAIT
    assert parent_wait(state, no_wait=no_wait) is expected


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def child_of(desk: Desk, parent: int, **changes: object) -> int:
    child = desk.submit(taskName="child", **changes)
    desk.store.tasks.update(child, parent_id=parent)
    desk.store.commit()
    return child


def end(desk: Desk, task_id: int, *, finished: bool) -> None:
    (job,) = desk.engine.attempts.take(EMBEDDED_PILOT, limit=1, now=desk.now, host="h", task_id=task_id)
    desk.engine.attempts.ended(job, AttemptReport(finished=finished, exit_code=0 if finished else 1), desk.now)
    for _ in range(4):
        desk.pass_time(10)


def test_it_starts_when_the_parent_is_done(desk: Desk) -> None:
    parent = desk.submit()
    child = child_of(desk, parent)
    desk.pass_time(10)
    assert desk.task(parent).state is TaskState.RUNNING
    held = desk.task(child)
    assert (held.state, held.old_state) == (TaskState.PENDING, TaskState.REGISTERED)
    assert held.error_dialog == f"pending until parent task {parent} is done"
    assert desk.store.jobs.ids_of(child) == []
    desk.pass_time(100)
    assert desk.task(child).state is TaskState.PENDING
    end(desk, parent, finished=True)
    assert desk.task(parent).state is TaskState.DONE
    started = desk.task(child)
    assert (started.state, started.error_dialog) == (TaskState.RUNNING, None)


def test_it_breaks_when_the_parent_fails(desk: Desk) -> None:
    parent = desk.submit()
    child = child_of(desk, parent)
    desk.pass_time(10)
    end(desk, parent, finished=False)
    broken = desk.task(child)
    assert (broken.state, broken.error_dialog) == (TaskState.BROKEN, f"parent task {parent} failed to complete")


def test_it_breaks_without_a_parent(desk: Desk) -> None:
    child = child_of(desk, 4711)
    desk.pass_time(10)
    desk.pass_time(10)
    assert desk.task(child).state is TaskState.BROKEN


def test_it_need_not_wait(desk: Desk) -> None:
    parent = desk.submit()
    child = child_of(desk, parent, noWaitParent=True)
    desk.pass_time(10)
    assert desk.task(parent).state is TaskState.RUNNING
    assert desk.task(child).state is TaskState.RUNNING


def test_it_can_be_killed_and_retried_while_it_waits(desk: Desk) -> None:
    parent = desk.submit()
    child = child_of(desk, parent)
    desk.pass_time(10)
    desk.engine.commands.take(desk.task(child), Command.KILL, by="A", now=desk.now)
    desk.pass_time(10)
    desk.pass_time(10)
    assert desk.task(child).state is TaskState.ABORTED
    desk.engine.commands.take(desk.task(child), Command.RETRY, by="A", now=desk.now)
    desk.pass_time(10)
    assert desk.task(child).state is TaskState.RUNNING
    assert len(desk.store.jobs.ids_of(child)) == 1


def test_it_can_be_paused_and_resumed_while_it_waits(desk: Desk) -> None:
    parent = desk.submit()
    child = child_of(desk, parent)
    desk.pass_time(10)
    desk.engine.commands.take(desk.task(child), Command.PAUSE, by="A", now=desk.now)
    desk.pass_time(10)
    desk.engine.commands.take(desk.task(child), Command.RESUME, by="A", now=desk.now)
    desk.pass_time(10)
    assert desk.task(child).state is TaskState.PENDING
    end(desk, parent, finished=True)
    assert desk.task(child).state is TaskState.RUNNING
