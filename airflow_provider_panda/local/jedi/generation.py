"""Makes jobs of the inputs of a task."""

from __future__ import annotations

from typing import Final

from airflow_provider_panda.local.jedi.ledger import Ledger
from airflow_provider_panda.local.jedi.parameters import Parameters
from airflow_provider_panda.local.options import GridOptions
from airflow_provider_panda.local.refine import job_text
from airflow_provider_panda.local.state import TaskState
from airflow_provider_panda.local.store import InputRow, NewJob, TaskRow, as_json

BATCH: Final = 20
"""Jobs that one step of the engine moves at most, so that requests are answered in between."""


class JobGenerator:
    """Makes jobs."""

    def __init__(self, ledger: Ledger, parameters: Parameters, options: GridOptions) -> None:
        self._ledger, self._parameters, self._options = ledger, parameters, options
        self._store = ledger.store

    def generate(self, task: TaskRow, now: float) -> None:
        """Make jobs of inputs that no job has; a task that has neither such inputs nor open jobs is prepared."""
        chunks = self._store.inputs.unassigned_chunks(task.task_id, BATCH)
        for offset, inputs in enumerate(chunks):
            self.insert(task, inputs, attempt=inputs[0].attempt + 1, serial=task.next_serial + offset, due=now, now=now)
        task = self._store.tasks.add(task.task_id, open_jobs=len(chunks), serials=len(chunks))
        if task.state is TaskState.READY:
            task = self._ledger.move_task(task, TaskState.RUNNING, now)
        if len(chunks) == BATCH:
            self._store.tasks.update(task.task_id, due=now)
        elif task.open_jobs:
            self._store.tasks.update(task.task_id, due=None)
        else:
            self._ledger.move_task(task, TaskState.PREPARED, now, due=now + self._options.finish_delay / 2)

    def insert(
        self, task: TaskRow, inputs: list[InputRow], *, attempt: int, serial: int, due: float, now: float
    ) -> None:
        """Make one job; it is activated when it is due."""
        refined = self._parameters.refined(task)
        names = [i.lfn for i in inputs]
        text = job_text(refined, inputs=names, serial=serial, attempt=attempt, index=inputs[0].chunk)
        panda_id = self._store.jobs.insert(
            NewJob(
                task_id=task.task_id,
                chunk=inputs[0].chunk,
                attempt=attempt,
                serial=serial,
                label=task.label,
                queue=task.queue or self._options.queues[0],
                parameters=text.parameters,
                files=as_json(text.files),
                due=due,
            ),
            now,
        )
        self._ledger.say_job(self._store.jobs.existing(panda_id), now, inputs)
