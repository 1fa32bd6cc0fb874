"""What follows from what on the embedded grid: decisions without any I/O, each after JEDI's."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from airflow_provider_panda.local.state import (
    COMMAND_ACCEPTED,
    JOB_TRANSITIONS,
    TASK_TRANSITIONS,
    Command,
    InputState,
    JobState,
    TaskState,
)


class TransitionError(RuntimeError):
    """A state was asked for that cannot follow: a fault of the grid itself."""


def check_task(old: TaskState, new: TaskState) -> None:
    """Raise :class:`TransitionError` unless a task may go from one state to the other."""
    if new not in TASK_TRANSITIONS[old]:
        raise TransitionError(f"a task does not go from {old} to {new}")


def check_job(old: JobState, new: JobState) -> None:
    """Raise :class:`TransitionError` unless a job may go from one state to the other."""
    if new not in JOB_TRANSITIONS[old]:
        raise TransitionError(f"a job does not go from {old} to {new}")


class Fate(Enum):
    """What becomes of the inputs of an attempt that ended."""

    FINISHED = "finished"
    RETRY = "retry"
    FAILED = "failed"
    LEFT = "left"
    """Untouched: the task is being killed or finished, so nothing more is tried."""


def fate_of_inputs(outcome: JobState, *, attempt: int, max_attempt: int, auto_retry: bool, task_ending: bool) -> Fate:
    """Decide what an ended attempt means for its inputs (JEDI: a new job while attempts are left)."""
    if outcome is JobState.FINISHED:
        return Fate.FINISHED
    if task_ending:
        return Fate.LEFT
    if outcome is JobState.FAILED and auto_retry and attempt < max_attempt:
        return Fate.RETRY
    return Fate.FAILED


def final_state(*, inputs: int, finished: int) -> TaskState:
    """Return how a task ends whose jobs have all ended: all, some or none of its inputs were processed."""
    if inputs and finished >= inputs:
        return TaskState.DONE
    return TaskState.FINISHED if finished else TaskState.FAILED


NOTHING_PROCESSED = "failed since no file was successfully processed"


def accepts(command: Command, state: TaskState) -> bool:
    """Whether a task in this state takes the command."""
    return state in COMMAND_ACCEPTED[command]


def retries_while_running(state: TaskState, label: str | None) -> bool:
    """Whether a retry of a task that has not ended tries its failed jobs again: only tasks of users do."""
    return state in (TaskState.RUNNING, TaskState.PENDING) and label == "user"


ATTEMPTS_INCREASED_IN = (TaskState.RUNNING, TaskState.READY)
"""States, now or before a hold, in which task/increase_attempts is taken."""


def rejection(command: Command, state: TaskState) -> str:
    """Return the server's words for a command that is not taken."""
    return f"Command rejected: the {command} command is not accepted if the task is in {state} status "


def registration(command: Command, task_id: int) -> str:
    """Return the server's words for a command that is taken."""
    return f"command={command} is registered for task ID {task_id}. will be executed in a few minutes"


@dataclass(frozen=True, slots=True)
class Brokered:
    """Outcome of brokerage: a queue, or the reason why there is none."""

    queue: str | None
    reason: str | None = None


def broker(site: str | None, queues: Sequence[str]) -> Brokered:
    """Choose the queue of a task: the named one, one that the name matches as a pattern, or the first of all."""
    if not site:
        return Brokered(queues[0]) if queues else Brokered(None, "no candidates")
    if site in queues:
        return Brokered(site)
    if re.search(r"[*+?.|\[\](){}^$\\]", site) and len(site) < 200:
        try:
            pattern = re.compile(site)
        except re.error:
            return Brokered(None, f"unknown site={site}")
        for queue in queues:
            if pattern.fullmatch(queue):
                return Brokered(queue)
    return Brokered(None, f"unknown site={site}")


class ParentWait(Enum):
    """What the state of its parent means for a task that is about to be refined."""

    GO = "go"
    WAIT = "wait"
    BREAK = "break"


def parent_wait(parent: TaskState | None, *, no_wait: bool) -> ParentWait:
    """Decide whether a child task may start (JEDI's TaskRefiner, checkParentTask_JEDI).

    :param parent: state of the parent; None if there is no such task.
    :param no_wait: the child's parameter noWaitParent.
    """
    if parent in (TaskState.DONE, TaskState.FINISHED):
        return ParentWait.GO
    if parent is None or parent in (TaskState.BROKEN, TaskState.ABORTED, TaskState.FAILED):
        return ParentWait.BREAK
    return ParentWait.GO if no_wait else ParentWait.WAIT


def brokerage_dialog(task_id: int, reason: str, base_url: str) -> str:
    """Return the errorDialog of a task that no queue takes; HTML, as the real one."""
    return (
        f'<a href="{base_url}/task/{task_id}/">log</a> : {reason}. '
        "brokerage failed for 1 input datasets when trying 1 datasets. will retry in a while"
    )


def statistics(counts: Iterable[tuple[str, int]]) -> str:
    """Return the counts of inputs as the server writes them: ``finished*1,failed*1``."""
    order = {InputState.FINISHED.value: 0, InputState.FAILED.value: 1}
    return ",".join(f"{status}*{n}" for status, n in sorted(counts, key=lambda c: (order.get(c[0], 2), c[0])) if n)


def percent(part: int, whole: int) -> int:
    """Return a share in whole percent, as pctFinished and pctFailed have it."""
    return part * 100 // whole if whole else 0


@dataclass(frozen=True, slots=True)
class Fault:
    """A failure of the infrastructure that was drawn for an attempt.

    :param code: pilotErrorCode.
    :param text: pilotErrorDiag.
    :param after_payload: whether the payload runs to its end before the fault strikes.
    """

    code: int
    text: str
    after_payload: bool


_FAULTS = (
    Fault(1099, "Failed to stage-in file: the storage did not answer", False),
    Fault(1110, "Failed during payload setup: the software area is not there", False),
    Fault(1137, "Failed to stage-out file: the storage did not answer", True),
    Fault(1201, "Job killed by signal: SIGTERM", True),
)


def draw_fault(*, seed: int, panda_id: int, rate: float) -> Fault | None:
    """Return the fault of an attempt, or None; the same for the same seed and PandaID, whatever ran in between."""
    if rate <= 0:
        return None
    dice = random.Random(f"{seed}:{panda_id}")  # noqa: S311 - a simulation
    if dice.random() >= rate:
        return None
    return dice.choice(_FAULTS)


def payload_error(*, exit_code: int, last_line: str) -> tuple[int, str]:
    """Return the pilot's error code and text for a payload that exited with an error (panda-pilot 3.7)."""
    code = 1315 if exit_code in (251, -1) else 1305
    return code, f"Failed to execute payload:{last_line}"[:500]
