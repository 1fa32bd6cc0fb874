"""The steps of a task from its registration to its end."""

from __future__ import annotations

import logging
from typing import Final

from airflow_provider_panda.local import machine
from airflow_provider_panda.local.jedi.commands import Commands
from airflow_provider_panda.local.jedi.generation import JobGenerator
from airflow_provider_panda.local.jedi.ledger import Ledger
from airflow_provider_panda.local.jedi.parameters import Parameters
from airflow_provider_panda.local.options import GridOptions
from airflow_provider_panda.local.refine import PSEUDO_DATASET, BrokenTaskError
from airflow_provider_panda.local.state import TaskState
from airflow_provider_panda.local.store import TaskRow

log = logging.getLogger(__name__)

BROKERAGE_PERIOD: Final = 5.0


class TaskSteps:
    """Moves tasks whose next step is due.

    :param base_url: the server's own URL, for links.
    """

    def __init__(
        self,
        ledger: Ledger,
        parameters: Parameters,
        generator: JobGenerator,
        commands: Commands,
        options: GridOptions,
        base_url: str,
    ) -> None:
        self._ledger, self._parameters, self._generator, self._commands = ledger, parameters, generator, commands
        self._options, self._base_url = options, base_url
        self._store = ledger.store

    def step(self, task: TaskRow, now: float) -> None:
        """Do what is due for a task in its state."""
        match task.state:
            case TaskState.WAITING:
                self._register(task, now)
            case TaskState.DEFINED | TaskState.PENDING:
                self._broker(task, now)
            case TaskState.READY | TaskState.RUNNING:
                self._generator.generate(task, now)
            case TaskState.PREPARED | TaskState.PASSED:
                self._end(task, now)
            case TaskState.ABORTING | TaskState.FINISHING:
                self._commands.execute(task, now)
            case TaskState.TOABORT:
                self._ledger.move_task(task, TaskState.ABORTED, now)
            case TaskState.TOBROKEN:
                self._ledger.move_task(task, TaskState.BROKEN, now)
            case TaskState.TORETRY:
                self._commands.revive(task, now)
            case TaskState.REREFINE:
                self._extend(task, now)
            case _:
                log.warning("task %d: nothing is due in state %s", task.task_id, task.state)
                self._store.tasks.update(task.task_id, due=None)

    def _register(self, task: TaskRow, now: float) -> None:
        try:
            refined = self._parameters.refined(task)
        except BrokenTaskError as error:
            log.info("task %d (%s) is broken: %s", task.task_id, task.name, error)
            self._ledger.move_task(
                task,
                TaskState.TOBROKEN,
                now,
                error_dialog=str(error),
                due=now + self._options.finish_delay,
                started=now,
            )
            return
        task = self._ledger.move_task(task, TaskState.REGISTERED, now, started=now)
        dataset = self._store.datasets.insert(task.task_id, PSEUDO_DATASET, "pseudo_input")
        self._store.inputs.insert(
            task.task_id, dataset, refined.lfns, per_job=refined.per_job, max_attempt=refined.max_attempt
        )
        for output in refined.outputs:
            self._store.datasets.insert(task.task_id, output.dataset, output.kind)
        task = self._ledger.move_task(task, TaskState.DEFINED, now, n_inputs=len(refined.lfns), due=now)
        self._broker(task, now)

    def _broker(self, task: TaskRow, now: float) -> None:
        brokered = machine.broker(task.site, self._options.queues)
        if brokered.queue is not None:
            task = self._ledger.move_task(task, TaskState.READY, now, queue=brokered.queue, error_dialog=None, due=now)
            self._generator.generate(task, now)
            return
        dialog = machine.brokerage_dialog(task.task_id, brokered.reason or "", self._base_url)
        if task.state is TaskState.PENDING:
            self._store.tasks.update(task.task_id, due=now + BROKERAGE_PERIOD)
        else:
            log.info(
                "task %d (%s): %s; known queues: %s", task.task_id, task.name, brokered.reason, self._options.queues
            )
            self._ledger.move_task(task, TaskState.PENDING, now, error_dialog=dialog, due=now + BROKERAGE_PERIOD)

    def _extend(self, task: TaskRow, now: float) -> None:
        """Take new parameters of a task that had ended: add inputs that are new, try again what had failed."""
        try:
            refined = self._parameters.refined(task)
        except BrokenTaskError as error:
            self._store.tasks.update(task.task_id, error_dialog=str(error))
            task = self._ledger.move_task(task, TaskState.READY, now, due=now)
            return
        known = self._store.inputs.of(task.task_id)
        names = {i.lfn.split(":", 1)[-1] for i in known}
        new = [lfn for lfn in refined.lfns if lfn.split(":", 1)[-1] not in names]
        if new:
            dataset = (
                known[0].dataset_id
                if known
                else self._store.datasets.insert(task.task_id, PSEUDO_DATASET, "pseudo_input")
            )
            self._store.inputs.insert(
                task.task_id,
                dataset,
                new,
                per_job=refined.per_job,
                max_attempt=refined.max_attempt,
                first_chunk=max((i.chunk for i in known), default=-1) + 1,
            )
            self._store.tasks.update(task.task_id, n_inputs=len(known) + len(new))
        self._commands.revive(task, now)

    def _end(self, task: TaskRow, now: float) -> None:
        state = machine.final_state(inputs=task.n_inputs, finished=task.n_finished)
        dialog = machine.NOTHING_PROCESSED if state is TaskState.FAILED else task.error_dialog
        self._ledger.move_task(task, state, now, error_dialog=dialog)
