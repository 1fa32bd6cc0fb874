"""The status of tasks made elsewhere: nothing but their ids is common to them, so each is asked for alone.

Those who wait for the same task share its requests, and a round asks for each task once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Protocol

from airflow_provider_panda.exceptions import TaskNotFoundError
from airflow_provider_panda.grid.board import INTERVAL, Registration, StatusBoard
from airflow_provider_panda.grid.task import TaskStatus


class StatusReader(Protocol):
    """What is asked: an :class:`~airflow_provider_panda.grid.watch.AsyncPandaClient`."""

    async def status(self, task_id: int) -> TaskStatus:
        """Return one task."""


class ForeignTasks:
    """Tasks of one server that are waited for by their ids.

    :param reader: whom to ask.
    :param interval: seconds between two rounds, varied by a fifth.
    """

    def __init__(self, reader: StatusReader, *, interval: float = INTERVAL) -> None:
        self._reader = reader
        self._wanted: Counter[int] = Counter()
        self._board = StatusBoard(self, "tasks made elsewhere", interval=interval)

    @contextmanager
    def waiting(self, task_id: int, deliver: Callable[[TaskStatus], None]) -> Iterator[Registration]:
        """Wait for a task inside of the context: each round that shows it calls ``deliver`` on the loop.

        :param task_id: jediTaskID.
        :param deliver: takes the status; must not block.
        """
        self._wanted[task_id] += 1
        try:
            with self._board.register(task_id, name=f"PanDA task {task_id}", deliver=deliver) as registration:
                yield registration
        finally:
            self._wanted[task_id] -= 1
            if not self._wanted[task_id]:
                del self._wanted[task_id]

    async def statuses(
        self, processing_type: str, *, since: datetime | None = None, oldest: int | None = None
    ) -> list[TaskStatus]:
        """Return the tasks that are waited for and that PanDA knows."""
        found = []
        for task_id in list(self._wanted):
            try:
                found.append(await self._reader.status(task_id))
            except TaskNotFoundError:
                continue
        return found

    async def status(self, task_id: int) -> TaskStatus:
        """Return one task."""
        return await self._reader.status(task_id)
