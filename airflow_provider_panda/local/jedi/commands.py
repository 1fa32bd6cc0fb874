"""What users command tasks to do: taken at once, acted on after a delay."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from airflow_provider_panda.local import machine
from airflow_provider_panda.local.jedi.attempts import Attempts
from airflow_provider_panda.local.jedi.ledger import Ledger
from airflow_provider_panda.local.options import GridOptions
from airflow_provider_panda.local.state import JOB_QUEUED, JOB_WITH_PILOT, Command, JobState, TaskState
from airflow_provider_panda.local.store import JobRow, TaskRow

log = logging.getLogger(__name__)

KILL_BATCH: Final = 60
"""Queued jobs that one step cancels at most."""
RETRY_ATTEMPTS: Final = 5
"""Attempts that a retry command adds to a failed input (seen once: 1 became 6)."""


class Commands:
    """Takes commands and acts on them.

    :param wake: makes the engine look at once for what is due.
    """

    def __init__(self, ledger: Ledger, attempts: Attempts, options: GridOptions, wake: Callable[[], None]) -> None:
        self._ledger, self._attempts, self._options, self._wake = ledger, attempts, options, wake
        self._store = ledger.store

    def take(self, task: TaskRow, command: Command, *, by: str, now: float, soft: bool = False) -> None:
        """Take a command for a task that accepts it (:func:`machine.accepts`)."""
        log.info("task %d (%s): %s by %s", task.task_id, task.name, command, by)
        due = now + self._options.command_delay
        common: dict[str, Any] = {"commanded_by": by, "old_state": task.state, "soft": int(soft)}
        match command:
            case Command.KILL:
                self._ledger.move_task(task, TaskState.ABORTING, now, due=due, **common)
            case Command.FINISH:
                self._ledger.move_task(task, TaskState.FINISHING, now, due=due, **common)
            case Command.RETRY:
                self._ledger.move_task(task, TaskState.TORETRY, now, due=due, **common)
            case Command.PAUSE:
                self._ledger.move_task(task, TaskState.PAUSED, now, **common)
                for job in self._store.jobs.of(task.task_id, [JobState.ACTIVATED]):
                    self._ledger.move_job(job, JobState.THROTTLED, now, due=None)
            case Command.RESUME:
                previous = TaskState(task.old_state or TaskState.READY)
                if previous is TaskState.REGISTERED:
                    previous = TaskState.DEFINED
                self._ledger.move_task(task, previous, now, due=now, commanded_by=by, old_state=None)
                for job in self._store.jobs.of(task.task_id, [JobState.THROTTLED]):
                    self._ledger.move_job(job, JobState.ACTIVATED, now, due=now)
            case Command.INCEXEC:
                self.reexecute(task, by=by, now=now)
            case Command.RELEASE:
                pass  # nothing is ever staged here
            case Command.REACTIVATE:
                self.reactivate(task, now, keep_attempts=False)
        self._wake()

    def reexecute(self, task: TaskRow, *, by: str, now: float) -> None:
        """Have a task that had ended take up its parameters again, with inputs that are new or had failed."""
        log.info("task %d (%s): executed again for %s", task.task_id, task.name, by)
        due = now + self._options.command_delay
        self._ledger.move_task(task, TaskState.REREFINE, now, due=due, ended=None, commanded_by=by)
        self._wake()

    def reactivate(self, task: TaskRow, now: float, *, keep_attempts: bool) -> int:
        """Make all inputs of a task that had ended ready again, and return how many there are."""
        count = self._store.inputs.reset(task.task_id, keep_attempts=keep_attempts)
        task = self._store.tasks.add(task.task_id, finished=-task.n_finished, failed=-task.n_failed)
        self._ledger.move_task(task, TaskState.READY, now, due=now, ended=None, error_dialog=None)
        self._wake()
        return count

    def retry_running(self, task: TaskRow, now: float, *, more_attempts: int = RETRY_ATTEMPTS) -> int:
        """Try the failed inputs of a running task again, and return how many there were."""
        failed = self._store.inputs.revive(task.task_id, more_attempts=more_attempts)
        if failed:
            self._store.tasks.add(task.task_id, failed=-task.n_failed)
            self._store.tasks.update(task.task_id, due=now, modified=now)
            self._wake()
        return failed

    def execute(self, task: TaskRow, now: float) -> None:
        """Act on a kill or finish command whose delay has passed."""
        who = task.commanded_by or task.owner
        queued: list[JobRow] = []
        for state in JOB_QUEUED:  # one by one, so that the index gives them in order
            queued += self._store.jobs.of(task.task_id, [state], limit=KILL_BATCH - len(queued))
        for job in queued:
            self._attempts.cancel(job, f"kill by {who}", now)
        if len(queued) == KILL_BATCH:
            return  # still due: the others at the next step
        if not (task.state is TaskState.FINISHING and task.soft):
            for job in self._store.jobs.of(task.task_id, JOB_WITH_PILOT):
                self._attempts.tell_to_stop(job, f"kill by {who}", now)
        self._store.tasks.update(task.task_id, due=None)
        self._attempts.after_jobs(self._store.tasks.add(task.task_id), now)

    def revive(self, task: TaskRow, now: float) -> None:
        """Act on a retry: the failed inputs of a task that had ended are tried again."""
        self._store.inputs.revive(task.task_id, more_attempts=RETRY_ATTEMPTS)
        task = self._store.tasks.add(task.task_id, failed=-task.n_failed)
        queued = task.queue is not None
        task = self._ledger.move_task(task, TaskState.READY, now, due=now, ended=None, error_dialog=None)
        if not queued:
            self._store.tasks.update(task.task_id, queue=machine.broker(task.site, self._options.queues).queue)
