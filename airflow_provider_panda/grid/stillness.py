"""Whether PanDA has stopped moving a task: a hint for whoever waits, on which nothing else depends.

A server whose JEDI hangs looks healthy from outside: it answers, takes submissions, and no task ever moves
(facts/panda.md section 9). A queue that is full looks the same for hours, so only states count that JEDI leaves by
itself, whatever the grid does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from airflow_provider_panda.grid.task import TaskStatus

PATIENCE: Final = 1800.0
"""Seconds in one state after which it is told; the longest that was seen of a healthy server is seven minutes."""

BRIEF: Final = frozenset(
    {"registered", "defined", "prepared", "passed", "finishing", "aborting", "toabort", "tobroken", "toretry"}
)
"""States that wait for JEDI alone."""


class Stillness:
    """How long one task has been in its state, by the clock of whoever waits.

    :param clock: seconds of a clock that is never set.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._state = ""
        self._since = 0.0
        self._told = False

    def hint(self, status: TaskStatus) -> str | None:
        """Take what PanDA says of the task, and return what is worth telling, once for each state."""
        now = self._clock()
        if status.status != self._state:
            self._state, self._since, self._told = status.status, now, False
        if self._told or self._state not in BRIEF or now - self._since < PATIENCE:
            return None
        self._told = True
        return (
            f"PanDA has left task {status.task_id} in state {self._state} for {(now - self._since) / 60:.0f} minutes, "
            "which takes a healthy server a few. The wait goes on and nothing is lost; if it stays so, ask PanDA's "
            "operators whether JEDI runs"
        )
