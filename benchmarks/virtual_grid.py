"""The embedded grid in simulated time: its own engine, store and slots, a clock that jumps, and jobs that only last.

Registration, generation, attempts, delays and slots are the code of ``airflow_provider_panda.local``, driven through
``Engine.step(now)``. What is of this module is the clock, and a pilot whose payloads end when their time has passed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from airflow_provider_panda.grid.parameters import GridDefaults, task_parameters
from airflow_provider_panda.grid.task import Resources, TaskSpec
from airflow_provider_panda.local import machine
from airflow_provider_panda.local.jedi import AttemptReport, Engine
from airflow_provider_panda.local.options import GridOptions
from airflow_provider_panda.local.slots import Slots
from airflow_provider_panda.local.state import TaskState
from airflow_provider_panda.local.store import JobRow, Store, as_json

BEGIN: Final = 1_000_000_000.0
"""Unix time at which simulated time begins."""
MAX_ATTEMPT: Final = 3


@dataclass(slots=True)
class VirtualTask:
    """A submitted PanDA task.

    :param durations: seconds that the function of each job runs.
    :param on_end: called when a job has its result, or has failed for good.
    :param missing: jobs of which neither is known yet.
    """

    durations: tuple[float, ...]
    on_end: Callable[[], None]
    missing: int


class VirtualGrid:
    """An embedded grid whose time passes only as somebody waits for something.

    :param options: slots, delays, faults; its addresses and folders are not used.
    :param wrapper: seconds of a slot before each job's function starts.
    """

    def __init__(self, options: GridOptions, *, wrapper: float = 0.0) -> None:
        self.now = BEGIN
        self.tasks = self.messages = self.attempts = 0
        self.busy = 0.0
        """Seconds in which functions ran that came to their end, over all slots."""
        self._options, self._wrapper = options, wrapper
        self._store = Store(Path(":memory:"))
        self._engine = Engine(self._store, options, self, "http://grid")
        self._slots = Slots(self._engine, options.slots, "virtual", self._start)
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._entries = 0
        self._submitted: dict[int, VirtualTask] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._store.close()

    @property
    def passed(self) -> float:
        """Seconds since the beginning."""
        return self.now - BEGIN

    def publish(self, destination: str, body: str) -> None:
        """Count a status message."""
        self.messages += 1

    def submit(self, durations: Sequence[float], on_end: Callable[[], None] = lambda: None) -> VirtualTask:
        """Submit a PanDA task now, one job for each duration (see :class:`VirtualTask`)."""
        self.tasks += 1
        spec = TaskSpec(
            key=str(self.tasks), name=f"evaluate-{self.tasks}", n_jobs=len(durations), command="evaluate",
            archive_name="sources.tar.gz", processing_type="airflow-makespan",
            resources=Resources(max_attempt=MAX_ATTEMPT),
        )  # fmt: skip
        params = task_parameters(spec, vo=self._options.vos[0], source_url="http://grid", defaults=GridDefaults())
        task_id = self._store.tasks.insert(
            name=spec.name, owner="airflow", nickname="airflow", vo=params["vo"], label="user", state=TaskState.WAITING,
            params=as_json(params), created=self.now, modified=self.now, state_changed=self.now,
            due=self.now + self._options.register_delay,
        )  # fmt: skip
        self._store.commit()
        task = VirtualTask(tuple(durations), on_end, len(durations))
        self._submitted[task_id] = task
        return task

    def at(self, time: float, act: Callable[[], None]) -> None:
        """Have something done at a time."""
        self._entries += 1
        heapq.heappush(self._agenda, (time, self._entries, act))

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        arrived: list[bool] = []
        self.at(self.now + seconds, lambda: arrived.append(True))
        self.wait_until(lambda: bool(arrived))

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Let time pass until something holds.

        :raises RuntimeError: nothing is due any more, so it never will.
        """
        while not condition():
            self._advance()

    def _advance(self) -> None:
        """Go to the next time at which something is due, and do one thing of it."""
        times = [time for time in (self._engine.next_due(), self._agenda[0][0] if self._agenda else None) if time]
        if not times:
            raise RuntimeError("nothing is due on the grid any more")
        self.now = max(self.now, min(times))
        if self._agenda and self._agenda[0][0] <= self.now:
            heapq.heappop(self._agenda)[2]()
        while self._engine.step(self.now):
            pass

    # --- the pilot ---

    def _start(self, job: JobRow) -> None:
        self.at(self.now, lambda: self._run(job))

    def _run(self, job: JobRow) -> None:
        self.attempts += 1
        job = self._engine.attempts.starting(job, self.now)
        fault = machine.draw_fault(seed=self._options.seed, panda_id=job.panda_id, rate=self._options.failure_rate)
        if fault is not None and not fault.after_payload:
            self._end(job, fault)
            return
        job = self._engine.attempts.running(job, self.now)
        seconds = self._submitted[job.task_id].durations[job.chunk]
        self.at(self.now + self._wrapper + seconds, lambda: self._end(job, fault))

    def _end(self, job: JobRow, fault: machine.Fault | None) -> None:
        pilot_error = None if fault is None else (fault.code, fault.text)
        self._engine.attempts.ended(job, AttemptReport(finished=fault is None, pilot_error=pilot_error), self.now)
        self._slots.release(job.panda_id)
        task = self._submitted[job.task_id]
        if fault is None:
            self.busy += task.durations[job.chunk]
        if fault is None or job.attempt == MAX_ATTEMPT:
            task.missing -= 1
            task.on_end()
