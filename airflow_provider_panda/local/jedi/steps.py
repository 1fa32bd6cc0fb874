"""The steps of a task from its registration to its end."""

from __future__ import annotations

import logging
from typing import Any, Final

from airflow_provider_panda.local import machine
from airflow_provider_panda.local.jedi.commands import Commands
from airflow_provider_panda.local.jedi.generation import JobGenerator
from airflow_provider_panda.local.jedi.ledger import Ledger
from airflow_provider_panda.local.jedi.parameters import Parameters
from airflow_provider_panda.local.machine import ParentWait
from airflow_provider_panda.local.options import GridOptions
from airflow_provider_panda.local.refine import PSEUDO_DATASET, BrokenTaskError, Refined
from airflow_provider_panda.local.state import TaskState
from airflow_provider_panda.local.store import TaskRow

log = logging.getLogger(__name__)

BROKERAGE_PERIOD: Final = 5.0
PARENT_PERIOD: Final = 30.0
"""Seconds until a task looks again whether its parent has ended; it is also told."""


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
            case TaskState.DEFINED | TaskState.PENDING if not task.n_inputs:
                self._refine(task, now)
            case TaskState.DEFINED | TaskState.PENDING:
                self._broker(task, now)
            case TaskState.READY | TaskState.RUNNING:
                self._generator.generate(task, now)
            case TaskState.PREPARED | TaskState.PASSED:
                self._end(task, now)
            case TaskState.ABORTING | TaskState.FINISHING:
                self._commands.execute(task, now)
            case TaskState.TOABORT:
                self._finalize(task, TaskState.ABORTED, now)
            case TaskState.TOBROKEN:
                self._finalize(task, TaskState.BROKEN, now)
            case TaskState.TORETRY if task.n_inputs:
                self._commands.revive(task, now)
            case TaskState.TORETRY | TaskState.REREFINE:
                self._extend(task, now)
            case _:
                log.warning("task %d: nothing is due in state %s", task.task_id, task.state)
                self._store.tasks.update(task.task_id, due=None)

    def _register(self, task: TaskRow, now: float) -> None:
        try:
            self._parameters.refined(task)
        except BrokenTaskError as error:
            self._break(task, str(error), now, started=now)
            return
        self._refine(self._ledger.move_task(task, TaskState.REGISTERED, now, started=now), now)

    def _break(self, task: TaskRow, reason: str, now: float, **columns: Any) -> None:
        log.info("task %d (%s) is broken: %s", task.task_id, task.name, reason)
        due = now + self._options.finish_delay
        self._ledger.move_task(task, TaskState.TOBROKEN, now, error_dialog=reason, due=due, **columns)

    def _refine(self, task: TaskRow, now: float) -> None:
        """Define a task's inputs and datasets, unless its parent is to be waited for."""
        refined = self._parameters.refined(task)
        parent = task.parent_id
        if parent is not None and parent != task.task_id:
            known = self._store.tasks.get(parent)
            no_wait = bool(refined.params.get("noWaitParent"))
            match machine.parent_wait(known.state if known else None, no_wait=no_wait):
                case ParentWait.WAIT:
                    self._hold(task, f"pending until parent task {parent} is done", now)
                    return
                case ParentWait.BREAK:
                    self._break(task, f"parent task {parent} failed to complete", now)
                    return
                case ParentWait.GO:
                    pass
        self._define(task, refined)
        task = self._ledger.move_task(
            task, TaskState.DEFINED, now, n_inputs=len(refined.lfns), due=now, error_dialog=None, old_state=None
        )
        self._broker(task, now)

    def _hold(self, task: TaskRow, reason: str, now: float) -> None:
        due = now + PARENT_PERIOD
        if task.state is TaskState.PENDING:
            self._store.tasks.update(task.task_id, due=due)
        else:
            self._ledger.move_task(
                task, TaskState.PENDING, now, error_dialog=reason, due=due, old_state=TaskState.REGISTERED
            )

    def _define(self, task: TaskRow, refined: Refined) -> None:
        dataset = self._store.datasets.insert(task.task_id, PSEUDO_DATASET, "pseudo_input")
        self._store.inputs.insert(
            task.task_id, dataset, refined.lfns, per_job=refined.per_job, max_attempt=refined.max_attempt
        )
        for output in refined.outputs:
            self._store.datasets.insert(task.task_id, output.dataset, output.kind)

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
        if not known:  # it had ended before it was defined: while it waited for its parent
            self._define(task, refined)
            self._store.tasks.update(task.task_id, n_inputs=len(refined.lfns))
        names = {i.lfn.split(":", 1)[-1] for i in known}
        new = [lfn for lfn in refined.lfns if lfn.split(":", 1)[-1] not in names]
        if known and new:
            self._store.inputs.insert(
                task.task_id,
                known[0].dataset_id,
                new,
                per_job=refined.per_job,
                max_attempt=refined.max_attempt,
                first_chunk=max(i.chunk for i in known) + 1,
            )
            self._store.tasks.update(task.task_id, n_inputs=len(known) + len(new))
        self._commands.revive(task, now)

    def _end(self, task: TaskRow, now: float) -> None:
        state = machine.final_state(inputs=task.n_inputs, finished=task.n_finished)
        dialog = machine.NOTHING_PROCESSED if state is TaskState.FAILED else task.error_dialog
        self._finalize(task, state, now, error_dialog=dialog)

    def _finalize(self, task: TaskRow, state: TaskState, now: float, **columns: Any) -> None:
        """Bring a task into a final state, and tell the tasks that wait for it."""
        self._ledger.move_task(task, state, now, **columns)
        self._store.tasks.wake_children(task.task_id, now)
