"""Wait until PanDA tasks are in one of a set of states, whatever runs in them.

Their status comes from the status board: tasks of this Airflow instance share one request with all others, tasks made
elsewhere are asked for one by one. A status message on the broker is a hint to ask at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_panda import configuration
from airflow_provider_panda.broker.hub import get_hub
from airflow_provider_panda.broker.status import StatusMessage
from airflow_provider_panda.exceptions import ConfigurationError, GridError
from airflow_provider_panda.grid.task import TaskStatus, phase_of
from airflow_provider_panda.triggers.connections import (
    SharedConnection,
    foreign_tasks,
    shared_connection,
    status_board,
)
from airflow_provider_panda.triggers.event import Outcome
from airflow_provider_panda.triggers.firing import settled, turn_to_fire
from airflow_provider_panda.triggers.health import waiting_with
from airflow_provider_panda.triggers.ids import TASK_ID_KEY
from airflow_provider_panda.triggers.kill import AT_ONCE, kill_unless_still_waited_for

UNKNOWN_PATIENCE: Final = 600.0
"""Seconds after which a task made elsewhere does not exist that PanDA never showed: registrations take a minute."""

MISSED_ROUNDS: Final = 3
"""Rounds of questions that must have missed it as well: an unreachable PanDA says nothing about a task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TasksEvent:
    """What became of the tasks that were waited for.

    :param outcome: COMPLETE: each is in an accepted state; ENDED: one ended otherwise; FAILED: PanDA knows no such
        task; DEADLINE: neither came in time.
    :param tasks: what PanDA last said of each task that it showed.
    :param unknown: tasks that it never showed.
    :param task_key: key of the one task that was submitted by the task instance, or None.
    """

    outcome: Outcome
    tasks: tuple[TaskStatus, ...]
    unknown: tuple[int, ...] = ()
    task_key: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the event as JSON for Airflow."""
        tasks = [{**dataclasses.asdict(task), "phase": task.phase.value} for task in self.tasks]
        return {
            "outcome": self.outcome.value,
            "tasks": tasks,
            "unknown": list(self.unknown),
            "task_key": self.task_key,
        }

    @classmethod
    def from_json(cls, event: dict[str, Any]) -> TasksEvent:
        """Read back what :meth:`to_json` wrote; fields that a newer provider added are ignored."""
        known = {field.name for field in dataclasses.fields(TaskStatus)}
        tasks = [{name: value for name, value in task.items() if name in known} for task in event["tasks"]]
        return cls(
            outcome=Outcome(event["outcome"]),
            tasks=tuple(TaskStatus(**{**task, "phase": phase_of(task["status"])}) for task in tasks),
            unknown=tuple(event.get("unknown", ())),
            task_key=event.get("task_key"),
        )

    def failed(self, accepted: Collection[str]) -> list[TaskStatus]:
        """Return the tasks that ended in a state that is not accepted."""
        return [task for task in self.tasks if task.phase.terminal and task.status not in accepted]


def judge(tasks: Mapping[int, TaskStatus | None], accepted: Collection[str]) -> Outcome | None:
    """Return what the states of the tasks amount to, or None while they have to be waited for.

    :param tasks: last status of each task by jediTaskID, None while PanDA did not show it.
    :param accepted: states that end the wait well.
    """
    shown = [task for task in tasks.values() if task is not None]
    if any(task.phase.terminal and task.status not in accepted for task in shown):
        return Outcome.ENDED
    if len(shown) == len(tasks) and all(task.status in accepted for task in shown):
        return Outcome.COMPLETE
    return None


class PandaTaskTrigger(BaseTrigger):
    """Wait for PanDA tasks.

    :param panda_conn_id: connection of type ``panda``.
    :param task_ids: jediTaskIDs.
    :param states: states that end the wait well; any other one in which a task ends, ends it as well.
    :param task_key: key of the one task that this task instance submitted, which is then killed when the wait is;
        None: tasks made elsewhere, which are left alone.
    :param processing_type: PanDA processingType of this Airflow instance, if the task is listed under it; None: it is
        asked for alone.
    :param deadline: Unix time in seconds after which the wait ends, or None.
    :param not_before: Unix time in seconds before which the trigger does not fire, or None.
    """

    def __init__(
        self,
        *,
        panda_conn_id: str,
        task_ids: Collection[int],
        states: Collection[str],
        task_key: str | None = None,
        processing_type: str | None = None,
        deadline: float | None = None,
        not_before: float | None = None,
        **_newer: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.panda_conn_id = panda_conn_id
        self.task_ids = tuple(task_ids)
        self.states = frozenset(states)
        self.task_key = task_key
        self.processing_type = processing_type
        self.deadline = deadline
        self.not_before = not_before

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what is needed to make this trigger again in a triggerer."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "panda_conn_id": self.panda_conn_id,
                "task_ids": list(self.task_ids),
                "states": sorted(self.states),
                "task_key": self.task_key,
                "processing_type": self.processing_type,
                "deadline": self.deadline,
                "not_before": self.not_before,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and fire once."""
        event = await _Wait(self, await shared_connection(self.panda_conn_id)).until_over()
        await settled(self.not_before)
        await turn_to_fire()
        yield TriggerEvent(event.to_json())

    async def on_kill(self) -> None:
        """Kill the task after a user's mark or clear, if this task instance submitted it."""
        if self.task_key is None:
            return
        (task_id,) = self.task_ids

        async def kill() -> None:
            shared = await shared_connection(self.panda_conn_id)
            await shared.client.kill(task_id, policy=AT_ONCE)

        await kill_unless_still_waited_for(
            self.task_instance,
            id_key=TASK_ID_KEY,
            own_id=task_id,
            kill=kill,
            what=f"{self.task_key}: PanDA task {task_id}",
            by_hand=f"kill it by hand: pbook, kill({task_id})",
            log=self.log,
        )


class _Wait:
    """One wait: what PanDA said of each task, and which are to be looked at now."""

    def __init__(self, trigger: PandaTaskTrigger, shared: SharedConnection) -> None:
        self.trigger, self.shared, self.log = trigger, shared, trigger.log
        self.tasks: dict[int, TaskStatus | None] = dict.fromkeys(trigger.task_ids)
        self.changed = asyncio.Event()
        self.hinted: set[int] = set()
        self.began = time.monotonic()

    async def until_over(self) -> TasksEvent:
        """Wait until there is something to tell, at most until the deadline."""
        limit = self.trigger.deadline
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(waiting_with(self.shared))
            self._listen(stack)
            registrations = self._register(stack)
            try:
                async with asyncio.timeout(None if limit is None else max(0.0, limit - time.time())):
                    while (outcome := judge(self.tasks, self.trigger.states)) is None:
                        if any(self._does_not_exist(i, entry.missed) for i, entry in registrations.items()):
                            outcome = Outcome.FAILED
                            break
                        await self._until_news()
            except TimeoutError:
                if limit is None or time.time() < limit:
                    raise
                outcome = Outcome.DEADLINE
        unknown = [task_id for task_id, task in self.tasks.items() if task is None]
        return TasksEvent(
            outcome=outcome,
            tasks=tuple(task for task in self.tasks.values() if task is not None),
            unknown=tuple(unknown),
            task_key=self.trigger.task_key,
        )

    def _register(self, stack: contextlib.AsyncExitStack) -> dict[int, Any]:
        kind = self.trigger.processing_type
        if kind is None:
            foreign = foreign_tasks(self.shared)
            return {i: stack.enter_context(foreign.waiting(i, self._take)) for i in self.tasks}
        board = status_board(self.shared, kind)
        name = self.trigger.task_key or "PanDA task"
        return {i: stack.enter_context(board.register(i, name=name, deliver=self._take)) for i in self.tasks}

    def _listen(self, stack: contextlib.AsyncExitStack) -> None:
        """Listen to PanDA's status messages, where the broker connection names their destination."""
        if self.shared.broker is None or self.shared.broker.status_destination is None:
            return
        try:
            instance = configuration.instance(self.shared.panda.instance_secret, conn_id=self.shared.panda.conn_id)
        except ConfigurationError:
            return  # only the status messages are lost, which are hints
        hub = get_hub(self.shared.broker, instance)
        # No result is waited for, but a hub listens as long as somebody waits for one.
        name = self.trigger.task_key or f"af{instance}-tasks-{id(self)}"
        stack.enter_context(hub.wait_for(name, key=b"", deliver=lambda _: None))
        for task_id in self.tasks:
            stack.enter_context(hub.watch_status(task_id, self._hint))

    def _hint(self, message: StatusMessage) -> None:
        if message.job_id is None:
            self.hinted.add(message.task_id)
            self.changed.set()

    def _take(self, status: TaskStatus) -> None:
        previous = self.tasks.get(status.task_id)
        if previous is not None and previous.status in self.trigger.states:
            return  # it was where it should be; where it went since does not matter
        self.tasks[status.task_id] = status
        what = self.trigger.task_key or status.name
        if previous is None or previous.status != status.status:
            self.log.info("%s: PanDA task %d is %s", what, status.task_id, status.status)
        if status.error and (previous is None or previous.error != status.error):
            self.log.warning("%s: PanDA says: %s", what, status.error)
        self.changed.set()

    async def _until_news(self) -> None:
        self.changed.clear()
        if self.hinted:
            task_id = self.hinted.pop()
            with contextlib.suppress(GridError):  # the status board asks again, and logs
                self._take(await self.shared.client.status(task_id))
            return
        patience = UNKNOWN_PATIENCE / 10 if any(task is None for task in self.tasks.values()) else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self.changed.wait()

    def _does_not_exist(self, task_id: int, missed: int) -> bool:
        waited = time.monotonic() - self.began
        foreign = self.trigger.task_key is None and self.tasks[task_id] is None
        return foreign and missed >= MISSED_ROUNDS and waited > UNKNOWN_PATIENCE
