"""The slots of the embedded pilot: how many jobs may run at once, and which jobs they are."""

from __future__ import annotations

from collections.abc import Callable

from airflow_provider_panda.local.jedi import EMBEDDED_PILOT, Engine
from airflow_provider_panda.local.store import JobRow


class Slots:
    """Gives free slots to the jobs that have waited longest, whenever the engine says that jobs wait.

    It reads no clock: times are those of the engine's steps.

    :param engine: gives the jobs.
    :param count: jobs at once.
    :param host: name of the machine, as the jobs show it.
    :param start: has a job run, from now on.
    """

    def __init__(self, engine: Engine, count: int, host: str, start: Callable[[JobRow], None]) -> None:
        self._engine, self._count, self._host, self._start = engine, count, host, start
        self._taken: set[int] = set()
        self._closed = False
        engine.on_activated = self.fill
        engine.free_slots = self.free

    def free(self) -> int:
        """Return how many more jobs may run now."""
        return 0 if self._closed else self._count - len(self._taken)

    def fill(self, now: float) -> None:
        """Start as many waiting jobs as there are free slots."""
        free = self.free()
        if free <= 0:
            return
        for job in self._engine.attempts.take(EMBEDDED_PILOT, limit=free, now=now, host=self._host):
            self._taken.add(job.panda_id)
            self._start(job)

    def release(self, panda_id: int) -> None:
        """Take back the slot of a job, for the next one."""
        self._taken.discard(panda_id)
        self._engine.wake()

    def close(self) -> None:
        """Give out no more slots."""
        self._closed = True
