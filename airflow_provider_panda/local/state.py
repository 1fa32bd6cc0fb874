"""States of tasks and jobs of the embedded grid, and the tables that say what may follow what.

After JEDI of panda-server 1.0.4 (facts/panda.md section 5). What is not in a table does not happen.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class TaskState(StrEnum):
    """States of a task that the embedded grid knows."""

    WAITING = "waiting"
    """Submitted, and not refined yet: unknown to every call but get_task_parameters."""
    REGISTERED = "registered"
    DEFINED = "defined"
    PENDING = "pending"
    READY = "ready"
    RUNNING = "running"
    PAUSED = "paused"
    TORETRY = "toretry"
    REREFINE = "rerefine"
    FINISHING = "finishing"
    PASSED = "passed"
    PREPARED = "prepared"
    ABORTING = "aborting"
    TOABORT = "toabort"
    TOBROKEN = "tobroken"
    DONE = "done"
    FINISHED = "finished"
    FAILED = "failed"
    ABORTED = "aborted"
    BROKEN = "broken"
    EXHAUSTED = "exhausted"


_T = TaskState

_COMMANDED: Final = {_T.ABORTING, _T.FINISHING, _T.PAUSED}

TASK_TRANSITIONS: Final[dict[TaskState, frozenset[TaskState]]] = {
    state: frozenset(targets)
    for state, targets in {
        _T.WAITING: {_T.REGISTERED, _T.TOBROKEN},
        _T.REGISTERED: {_T.DEFINED, _T.PENDING, _T.TOBROKEN},
        _T.DEFINED: {_T.READY, _T.PENDING, *_COMMANDED},
        # pending: no queue takes it, or its parent has not ended (then it is not defined yet)
        _T.PENDING: {_T.READY, _T.DEFINED, _T.TOBROKEN, *_COMMANDED},
        _T.READY: {_T.RUNNING, *_COMMANDED},
        _T.RUNNING: {_T.PREPARED, _T.READY, *_COMMANDED},
        _T.PAUSED: {_T.DEFINED, _T.PENDING, _T.READY, _T.RUNNING, _T.ABORTING, _T.FINISHING},
        _T.TORETRY: {_T.READY, _T.ABORTING, _T.FINISHING},
        _T.REREFINE: {_T.READY, _T.ABORTING, _T.FINISHING},
        _T.FINISHING: {_T.PASSED, _T.ABORTING},
        _T.PASSED: {_T.DONE, _T.FINISHED, _T.FAILED, _T.ABORTING},
        _T.PREPARED: {_T.DONE, _T.FINISHED, _T.FAILED},
        _T.ABORTING: {_T.TOABORT},
        _T.TOABORT: {_T.ABORTED},
        _T.TOBROKEN: {_T.BROKEN},
        _T.DONE: {_T.REREFINE, _T.READY},
        _T.FINISHED: {_T.TORETRY, _T.REREFINE, _T.READY},
        _T.FAILED: {_T.TORETRY, _T.REREFINE, _T.READY},
        _T.ABORTED: {_T.TORETRY, _T.REREFINE, _T.READY},
        _T.EXHAUSTED: {_T.TORETRY, _T.REREFINE, *_COMMANDED},
        _T.BROKEN: set[TaskState](),
    }.items()
}
"""Which states of a task may follow which."""

TASK_TERMINAL: Final = frozenset({_T.DONE, _T.FINISHED, _T.FAILED, _T.ABORTED, _T.BROKEN, _T.EXHAUSTED})

TASK_ANNOUNCED: Final = frozenset(
    {_T.DEFINED, _T.PENDING, _T.RUNNING, _T.PREPARED, _T.PASSED, _T.DONE, _T.FINISHED, _T.FAILED, _T.ABORTED}
)
"""States that appear on the broker; the others were never sent by the real server (facts/panda.md section 6)."""


class JobState(StrEnum):
    """States of a job, that is of one attempt."""

    PENDING = "pending"
    DEFINED = "defined"
    ACTIVATED = "activated"
    THROTTLED = "throttled"
    SENT = "sent"
    STARTING = "starting"
    RUNNING = "running"
    HOLDING = "holding"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


_J = JobState

JOB_TRANSITIONS: Final[dict[JobState, frozenset[JobState]]] = {
    state: frozenset(targets)
    for state, targets in {
        _J.PENDING: {_J.DEFINED, _J.CANCELLED},
        _J.DEFINED: {_J.ACTIVATED, _J.CANCELLED},
        _J.ACTIVATED: {_J.SENT, _J.THROTTLED, _J.CANCELLED},
        _J.THROTTLED: {_J.ACTIVATED, _J.CANCELLED},
        # back to activated: the grid was stopped in good order before the payload ended
        _J.SENT: {_J.STARTING, _J.RUNNING, _J.HOLDING, _J.FAILED, _J.CANCELLED, _J.ACTIVATED},
        _J.STARTING: {_J.STARTING, _J.RUNNING, _J.HOLDING, _J.FAILED, _J.CANCELLED, _J.ACTIVATED},
        _J.RUNNING: {_J.RUNNING, _J.HOLDING, _J.FAILED, _J.CANCELLED, _J.ACTIVATED},
        _J.HOLDING: {_J.FINISHED, _J.FAILED, _J.CANCELLED},
        _J.FINISHED: set[JobState](),
        _J.FAILED: set[JobState](),
        _J.CANCELLED: set[JobState](),
    }.items()
}
"""Which states of a job may follow which."""

JOB_TERMINAL: Final = frozenset({_J.FINISHED, _J.FAILED, _J.CANCELLED})
JOB_QUEUED: Final = frozenset({_J.PENDING, _J.DEFINED, _J.ACTIVATED, _J.THROTTLED})
"""No pilot has them."""
JOB_WITH_PILOT: Final = frozenset({_J.SENT, _J.STARTING, _J.RUNNING})
JOB_ANNOUNCED: Final = frozenset(
    {_J.PENDING, _J.DEFINED, _J.ACTIVATED, _J.STARTING, _J.RUNNING, _J.FINISHED, _J.FAILED, _J.CANCELLED}
)
"""States that appear on the broker."""


class InputState(StrEnum):
    """States of an input (a file in PanDA's words) of a task."""

    READY = "ready"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"


class Command(StrEnum):
    """What an owner may ask of a task."""

    KILL = "kill"
    FINISH = "finish"
    RETRY = "retry"
    PAUSE = "pause"
    RESUME = "resume"
    RELEASE = "release"
    INCEXEC = "incexec"
    """Run again what had ended, with inputs as they are now; called reload_input in the API."""
    REACTIVATE = "reactivate"


_MOVING: Final = {_T.REGISTERED, _T.DEFINED, _T.PENDING, _T.READY, _T.RUNNING}

_ENDED: Final = {_T.DONE, _T.FINISHED, _T.FAILED, _T.ABORTED, _T.EXHAUSTED}

COMMAND_ACCEPTED: Final[dict[Command, frozenset[TaskState]]] = {
    Command.KILL: frozenset({*_MOVING, _T.PAUSED, _T.FINISHING, _T.PASSED, _T.EXHAUSTED, _T.TORETRY, _T.REREFINE}),
    Command.FINISH: frozenset({*_MOVING, _T.PAUSED, _T.EXHAUSTED, _T.TORETRY, _T.REREFINE}),
    Command.RETRY: frozenset({_T.FINISHED, _T.FAILED, _T.ABORTED, _T.EXHAUSTED}),
    Command.PAUSE: frozenset(_MOVING),
    Command.RESUME: frozenset({_T.PAUSED}),
    Command.RELEASE: frozenset({_T.PENDING, _T.RUNNING, _T.READY, _T.DEFINED}),
    Command.INCEXEC: frozenset(_ENDED),
    Command.REACTIVATE: frozenset(_ENDED - {_T.EXHAUSTED}),
}
"""In which states of the task a command is taken; elsewhere it is rejected with code 4."""
