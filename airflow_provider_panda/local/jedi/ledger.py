"""Brings tasks and jobs into their states, and says so once that is committed."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from airflow_provider_panda.local import machine
from airflow_provider_panda.local.notices import DESTINATION, Publisher, job_notice, task_notice
from airflow_provider_panda.local.state import TASK_TERMINAL, JobState, TaskState
from airflow_provider_panda.local.store import InputRow, JobRow, Store, TaskRow

log = logging.getLogger(__name__)


class Ledger:
    """The states of tasks and jobs, with the status messages that changes cause.

    :param store: the grid's memory.
    :param publisher: where status messages go.
    """

    def __init__(self, store: Store, publisher: Publisher) -> None:
        self.store = store
        self._publisher = publisher
        self._outbox: list[str] = []

    def flush(self) -> None:
        """Commit, then send what the changes had to say."""
        self.store.commit()
        messages, self._outbox = self._outbox, []
        for body in messages:
            self._publisher.publish(DESTINATION, body)

    def forget_changes(self) -> None:
        """Drop what changed since the last commit, and what it had to say."""
        self.store.rollback()
        self._outbox.clear()

    def move_task(self, task: TaskRow, state: TaskState, now: float, **columns: Any) -> TaskRow:
        """Bring a task into a state, and say so."""
        machine.check_task(task.state, state)
        columns.setdefault("due", None)
        if state in TASK_TERMINAL:
            columns["ended"] = now
        self.store.tasks.update(task.task_id, state=state, modified=now, state_changed=now, **columns)
        notice = task_notice(task.task_id, state, now)
        if notice:
            self._outbox.append(notice)
        level = logging.INFO if state in TASK_TERMINAL or state is TaskState.RUNNING else logging.DEBUG
        log.log(level, "task %d (%s): %s -> %s", task.task_id, task.name, task.state, state)
        return replace(task, state=state, modified=now, state_changed=now, **columns)

    def move_job(self, job: JobRow, state: JobState, now: float, **columns: Any) -> JobRow:
        """Bring a job into a state, and say so."""
        machine.check_job(job.state, state)
        columns.update(state=state, modified=now, state_changed=now)
        self.store.jobs.update(job.panda_id, **columns)
        moved = replace(job, **columns)
        self.say_job(moved, now)
        return moved

    def say_job(self, job: JobRow, now: float, inputs: list[InputRow] | None = None) -> None:
        """Note the status message of a job as it is now, with the inputs where the caller has them."""
        if inputs is None:
            without_inputs = job.state in (JobState.STARTING, JobState.RUNNING, JobState.SENT, JobState.HOLDING)
            inputs = [] if without_inputs else self.store.inputs.of(job.task_id, job.chunk)
        notice = job_notice(job, job.state, [i.lfn for i in inputs], now)
        if notice:
            self._outbox.append(notice)
