"""Decisions of the embedded grid, as tables."""

from __future__ import annotations

import itertools

import pytest

from airflow_provider_panda.local import machine
from airflow_provider_panda.local.machine import Fate, TransitionError
from airflow_provider_panda.local.state import (
    COMMAND_ACCEPTED,
    JOB_TERMINAL,
    JOB_TRANSITIONS,
    TASK_TERMINAL,
    TASK_TRANSITIONS,
    Command,
    JobState,
    TaskState,
)


@pytest.mark.parametrize(
    ("outcome", "attempt", "max_attempt", "auto_retry", "ending", "fate"),
    [
        (JobState.FINISHED, 1, 3, True, False, Fate.FINISHED),
        (JobState.FINISHED, 1, 3, True, True, Fate.FINISHED),
        (JobState.FAILED, 1, 3, True, False, Fate.RETRY),
        (JobState.FAILED, 3, 3, True, False, Fate.FAILED),
        (JobState.FAILED, 1, 1, True, False, Fate.FAILED),
        (JobState.FAILED, 1, 3, False, False, Fate.FAILED),
        (JobState.FAILED, 1, 3, True, True, Fate.LEFT),
        (JobState.CANCELLED, 1, 3, True, True, Fate.LEFT),
        (JobState.CANCELLED, 1, 3, True, False, Fate.FAILED),
    ],
)
def test_fate_of_inputs(
    outcome: JobState, attempt: int, max_attempt: int, auto_retry: bool, ending: bool, fate: Fate
) -> None:
    decided = machine.fate_of_inputs(
        outcome, attempt=attempt, max_attempt=max_attempt, auto_retry=auto_retry, task_ending=ending
    )
    assert decided is fate


@pytest.mark.parametrize(
    ("inputs", "finished", "state"),
    [
        (3, 3, TaskState.DONE),
        (3, 1, TaskState.FINISHED),
        (3, 0, TaskState.FAILED),
        (0, 0, TaskState.FAILED),
    ],
)
def test_final_state(inputs: int, finished: int, state: TaskState) -> None:
    assert machine.final_state(inputs=inputs, finished=finished) is state


def test_tables_are_complete() -> None:
    assert set(TASK_TRANSITIONS) == set(TaskState)
    assert set(JOB_TRANSITIONS) == set(JobState)
    assert set(COMMAND_ACCEPTED) == set(Command)
    assert all(not JOB_TRANSITIONS[state] for state in JOB_TERMINAL)


@pytest.mark.parametrize("start", [s for s in TaskState if s not in TASK_TERMINAL])
def test_every_task_can_end(start: TaskState) -> None:
    reached, frontier = {start}, [start]
    while frontier:
        for state in TASK_TRANSITIONS[frontier.pop()] - reached:
            reached.add(state)
            frontier.append(state)
    assert reached & TASK_TERMINAL


@pytest.mark.parametrize(
    ("command", "target"),
    [
        (Command.KILL, TaskState.ABORTING),
        (Command.FINISH, TaskState.FINISHING),
        (Command.RETRY, TaskState.TORETRY),
        (Command.PAUSE, TaskState.PAUSED),
    ],
)
def test_a_command_is_taken_only_where_it_can_be_obeyed(command: Command, target: TaskState) -> None:
    unheard = {TaskState.REGISTERED}  # never at rest: the same transaction brings the task to defined
    for state in COMMAND_ACCEPTED[command] - unheard:
        machine.check_task(state, target)


def test_what_is_not_in_the_table_does_not_happen() -> None:
    with pytest.raises(TransitionError, match="from done to running"):
        machine.check_task(TaskState.DONE, TaskState.RUNNING)
    with pytest.raises(TransitionError, match="from finished to failed"):
        machine.check_job(JobState.FINISHED, JobState.FAILED)


@pytest.mark.parametrize(
    ("site", "queues", "queue"),
    [
        (None, ["A", "B"], "A"),
        ("", ["A", "B"], "A"),
        ("B", ["A", "B"], "B"),
        ("A|B", ["C", "B"], "B"),
        ("X.*", ["A", "X1"], "X1"),
        ("C", ["A", "B"], None),
        ("(", ["A"], None),
        (None, [], None),
    ],
)
def test_brokerage(site: str | None, queues: list[str], queue: str | None) -> None:
    brokered = machine.broker(site, queues)
    assert brokered.queue == queue
    assert (brokered.reason is None) is (queue is not None)


def test_statistics_have_the_servers_order() -> None:
    assert machine.statistics([("ready", 2), ("failed", 1), ("finished", 3), ("running", 0)]) == (
        "finished*3,failed*1,ready*2"
    )
    assert [machine.percent(*v) for v in ((1, 2), (1, 3), (0, 0), (2, 2))] == [50, 33, 0, 100]


def test_faults_follow_the_seed() -> None:
    def draw(seed: int) -> list[machine.Fault | None]:
        return [machine.draw_fault(seed=seed, panda_id=i, rate=0.3) for i in range(1000)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    struck = [f for f in draw(1) if f]
    assert 230 < len(struck) < 370
    assert {f.after_payload for f in struck} == {True, False}
    assert not any(machine.draw_fault(seed=1, panda_id=i, rate=0) for i in range(100))
    assert all(machine.draw_fault(seed=1, panda_id=i, rate=1) for i in range(100))


@pytest.mark.parametrize(("exit_code", "code"), [(1, 1305), (73, 1305), (251, 1315), (-1, 1315), (-15, 1305)])
def test_payload_errors(exit_code: int, code: int) -> None:
    assert machine.payload_error(exit_code=exit_code, last_line="x" * 900)[0] == code
    assert len(machine.payload_error(exit_code=exit_code, last_line="x" * 900)[1]) == 500


def test_rejections_in_the_servers_words() -> None:
    rejected = [
        (c, s) for c, s in itertools.product((Command.KILL, Command.FINISH), TASK_TERMINAL) if machine.accepts(c, s)
    ]
    assert {s for _, s in rejected} <= {TaskState.EXHAUSTED}
    assert machine.rejection(Command.KILL, TaskState.DONE) == (
        "Command rejected: the kill command is not accepted if the task is in done status "
    )
