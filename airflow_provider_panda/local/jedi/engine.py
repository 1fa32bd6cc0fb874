"""The cycle of the engine: looks for what is due, has it moved, and waits for the next.

Everything that is still to happen stands in the store (column ``due``), so a restart goes on where it was.
Decisions are those of the state machine (``local/machine.py``); the parts of the engine apply them, one transaction
a batch.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from airflow_provider_panda.local.jedi.attempts import Attempts
from airflow_provider_panda.local.jedi.commands import Commands
from airflow_provider_panda.local.jedi.generation import BATCH, JobGenerator
from airflow_provider_panda.local.jedi.ledger import Ledger
from airflow_provider_panda.local.jedi.parameters import Parameters
from airflow_provider_panda.local.jedi.steps import TaskSteps
from airflow_provider_panda.local.notices import Publisher
from airflow_provider_panda.local.options import GridOptions
from airflow_provider_panda.local.state import JOB_WITH_PILOT, JobState
from airflow_provider_panda.local.store import JobRow, Store, TaskRow

log = logging.getLogger(__name__)

Row = TypeVar("Row", TaskRow, JobRow)

BREATH: Final = 0.003
"""Seconds that the engine leaves to others between steps while there is more to do."""
PUT_OFF: Final = 60
"""Seconds until a step that failed unexpectedly is tried again."""


class Engine:
    """Moves tasks and jobs when their time has come; its parts do the moving.

    :param store: the grid's memory.
    :param options: delays, queues, VOs.
    :param publisher: where status messages go.
    :param base_url: the server's own URL, for links.
    """

    def __init__(self, store: Store, options: GridOptions, publisher: Publisher, base_url: str) -> None:
        self._store = store
        self._wake = asyncio.Event()
        self.ledger = Ledger(store, publisher)
        self.parameters = Parameters(options.vos)
        generator = JobGenerator(self.ledger, self.parameters, options)
        self.attempts = Attempts(self.ledger, self.parameters, generator, options, self.wake)
        self.commands = Commands(self.ledger, self.attempts, options, self.wake)
        self._steps = TaskSteps(self.ledger, self.parameters, generator, self.commands, options, base_url)
        self.on_activated: Callable[[float], None] = lambda now: None
        """Called with the step's time when a job may be taken."""
        self.free_slots: Callable[[], int] = lambda: 0

    def wake(self) -> None:
        """Look at once for what is due."""
        self._wake.set()

    async def run(self) -> None:
        """Move what is due, and wait for the next, until cancelled."""
        while True:
            self._wake.clear()
            try:
                more = self.step(time.time())
            except Exception:
                self.ledger.forget_changes()
                log.exception("the engine's cycle failed; it is tried again in a second")
                await asyncio.sleep(1)
                continue
            if more:
                await asyncio.sleep(BREATH)
                continue
            upcoming = self.next_due()
            pause = None if upcoming is None else max(0.0, upcoming - time.time())
            try:
                await asyncio.wait_for(self._wake.wait(), pause)
            except TimeoutError:
                continue

    def next_due(self) -> float | None:
        """Return when a step is next needed if nothing happens before; None if never."""
        return self._store.next_due(with_activated=self.free_slots() > 0)

    def step(self, now: float) -> bool:
        """Move everything that is due, and return whether there is more to do at once.

        :param now: the time, from whichever clock drives the engine: nothing in a step reads another.
        """

        def put_off_task(task: TaskRow) -> None:
            self._store.tasks.update(task.task_id, due=now + PUT_OFF)

        def put_off_job(job: JobRow) -> None:
            self._store.jobs.update(job.panda_id, due=now + PUT_OFF)

        tasks = self._store.tasks.due(now, BATCH)
        self._apply(tasks, lambda task: self._steps.step(task, now), put_off_task)
        pending = self._store.jobs.due(JobState.PENDING, now, BATCH)
        self._apply(pending, lambda job: self.attempts.activate(job, now), put_off_job)
        held = self._store.jobs.due(JobState.HOLDING, now, BATCH)
        self._apply(
            held,
            lambda job: self.attempts.finalize(job, JobState(job.outcome or JobState.FAILED), now),
            put_off_job,
        )
        silent = [job for state in JOB_WITH_PILOT for job in self._store.jobs.due(state, now, BATCH)]
        self._apply(silent, lambda job: self.attempts.lose(job, now), put_off_job)
        if self.free_slots() > 0:
            self.on_activated(now)
        return bool(tasks or pending or held or silent)

    def _apply(self, rows: Sequence[Row], act: Callable[[Row], None], put_off: Callable[[Row], None]) -> None:
        """Move rows in one transaction; where one fails, each in its own, so that it does not hold up the others."""
        try:
            for row in rows:
                act(row)
            self.ledger.flush()
            return
        except Exception:
            self.ledger.forget_changes()
            if len(rows) > 1:
                log.debug("a batch failed; its rows are moved one by one", exc_info=True)
        for row in rows:
            try:
                act(row)
                self.ledger.flush()
            except Exception:
                self.ledger.forget_changes()
                log.exception("a step failed; it is tried again in %d s", PUT_OFF)
                put_off(row)
                self.ledger.flush()
