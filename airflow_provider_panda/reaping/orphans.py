"""Which grid tasks nobody waits for: a pure decision over what PanDA and Airflow say."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from airflow_provider_panda.grid.task import KEY_LENGTH
from airflow_provider_panda.triggers.looks import Place

GRACE: Final = 600.0
"""Default of the seconds after its submission, and after the end of its task instance, in which a task is spared: a
trigger tries to kill for about as long, and a task that Airflow finished early still runs its last minute."""

UNFINISHED: Final = frozenset(
    {"scheduled", "queued", "running", "restarting", "up_for_retry", "up_for_reschedule", "deferred"}
)
"""States of a task instance that goes on whatever its DAG run does."""


class Standing(Enum):
    """What a live grid task is to this Airflow."""

    AWAITED = "waited for"
    SPARED = "spared"
    """Too young, or what it belongs to has ended just now."""
    ORPHAN = "orphan"
    UNKNOWN = "unknown"
    """Of this instance by its key, and of no task instance in this database."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GridTask:
    """A live task on PanDA with a key of this instance.

    :param task_id: jediTaskID.
    :param name: PanDA task name.
    :param key: task key in it.
    :param status: PanDA's own word.
    :param created: Unix time in seconds of its submission, or None if PanDA does not tell.
    """

    task_id: int
    name: str
    key: str
    status: str
    created: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """The try of a task instance that a key was made for.

    :param place: the task instance.
    :param ended: Unix time in seconds at which the try ended, or None.
    """

    place: Place
    ended: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """What a task instance is now.

    :param key: key of its present try.
    :param state: its state, or None.
    :param run_goes_on: whether its DAG run is queued or running.
    :param ended: Unix time in seconds at which it ended, or None.
    :param task_key: XCom ``panda_task_key``: a retry may have adopted what an earlier try submitted. None: there is
        none, or it is no key, as with an XCom backend that keeps values elsewhere.
    :param task_id: XCom ``panda_task_id``.
    """

    key: str
    state: str | None
    run_goes_on: bool
    ended: float | None = None
    task_key: str | None = None
    task_id: int | None = None

    @property
    def unfinished(self) -> bool:
        """Whether it will go on: one without a state does with its DAG run."""
        return self.state in UNFINISHED or (self.state is None and self.run_goes_on)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A live grid task and what it is.

    :param task: the task.
    :param standing: what it is.
    :param why: the reason in words.
    :param place: the task instance that it was submitted for, if that is known.
    """

    task: GridTask
    standing: Standing
    why: str
    place: Place | None = None


def judge(
    task: GridTask, attempt: Attempt | None, present: Present | None, *, now: float, grace: float = GRACE
) -> Finding:
    """Decide what a live grid task of this instance is. In doubt it is spared.

    :param task: what PanDA says of it.
    :param attempt: the try that its key was made for, or None if this Airflow knows none.
    :param present: what that task instance is now, or None if it is gone.
    :param now: Unix time in seconds.
    :param grace: seconds, see :data:`GRACE`.
    """
    standing, why = _judge(task, attempt, present, now, grace)
    return Finding(task=task, standing=standing, why=why, place=attempt.place if attempt is not None else None)


def _judge(
    task: GridTask, attempt: Attempt | None, present: Present | None, now: float, grace: float
) -> tuple[Standing, str]:
    if task.created is None:
        return Standing.SPARED, "PanDA does not tell when it was submitted"
    if now - task.created < grace:
        return Standing.SPARED, f"submitted {_ago(now - task.created)}"
    if attempt is None or present is None:
        return Standing.UNKNOWN, "no task instance of this Airflow has its key"
    if present.unfinished:
        if present.state != "deferred":
            # The next leg of it kills what earlier tries left, or takes it over.
            return Standing.AWAITED, f"its task instance is {present.state or 'not scheduled yet'}"
        if not present.task_key:
            # Removed, or kept where it cannot be read from here: what it waits for is not certain.
            return Standing.AWAITED, "its task instance is deferred, and its XCom panda_task_key cannot be read"
        if task.key not in (present.key, present.task_key):
            ended = attempt.ended
            why = "its try is over, and a later one waits for another"
        elif present.task_id not in (None, task.task_id):
            return Standing.ORPHAN, f"submitted twice: its task instance waits for {present.task_id}"
        else:
            return Standing.AWAITED, "its task instance is deferred"
    else:
        ended = max((end for end in (attempt.ended, present.ended) if end is not None), default=None)
        why = f"its task instance is {present.state or 'without a state in a DAG run that has ended'}"
    if ended is not None and now - ended < grace:
        return Standing.SPARED, f"{why} since {_ago(now - ended)}"
    return Standing.ORPHAN, why


def _ago(seconds: float) -> str:
    return f"{max(0, round(seconds))} s ago"


def judge_all(
    tasks: Collection[GridTask],
    attempts: Mapping[str, Attempt],
    present: Mapping[Place, Present],
    *,
    now: float,
    grace: float = GRACE,
) -> list[Finding]:
    """Decide for each of several tasks; see :func:`judge`.

    :param attempts: tries by the key that was made for them.
    :param present: task instances as they are now.
    """
    found = []
    for task in sorted(tasks, key=lambda task: task.task_id):
        attempt = attempts.get(task.key)
        here = None if attempt is None else present.get(attempt.place)
        found.append(judge(task, attempt, here, now=now, grace=grace))
    return found


def key_or_none(value: object) -> str | None:
    """Return an XCom value that is a task key."""
    return value if isinstance(value, str) and len(value) == KEY_LENGTH and value.startswith("af") else None


def id_or_none(value: object) -> int | None:
    """Return an XCom value that is a jediTaskID."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None
