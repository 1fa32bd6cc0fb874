"""The way of a job: taken by a pilot, running, ended, lost, and what follows for its inputs and its task."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from airflow_provider_panda.local import machine
from airflow_provider_panda.local.jedi.generation import JobGenerator
from airflow_provider_panda.local.jedi.ledger import Ledger
from airflow_provider_panda.local.jedi.parameters import Parameters
from airflow_provider_panda.local.machine import Fate
from airflow_provider_panda.local.options import GridOptions
from airflow_provider_panda.local.state import InputState, JobState, TaskState
from airflow_provider_panda.local.store import JobRow, TaskRow

log = logging.getLogger(__name__)

EMBEDDED_PILOT: Final = "embedded"
PILOT_SILENCE: Final = 6 * 3600.0
"""An outside pilot that says nothing for so long has lost its job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptReport:
    """What a pilot says at the end of an attempt.

    :param finished: whether the payload and everything around it succeeded.
    :param exit_code: exit code of the payload as the pilot reports it (modulo 255), or None if it never ran.
    :param pilot_error: code and text of the pilot, or None.
    :param exe_error: code and text of the payload, or None.
    :param metadata: text of jobReport.json, or None.
    :param cpu_seconds: CPU time, whole seconds.
    """

    finished: bool
    exit_code: int | None = None
    pilot_error: tuple[int, str] | None = None
    exe_error: tuple[int, str] | None = None
    metadata: str | None = None
    cpu_seconds: int | None = None


class Attempts:
    """Moves jobs.

    :param wake: makes the engine look at once for what is due.
    """

    def __init__(
        self,
        ledger: Ledger,
        parameters: Parameters,
        generator: JobGenerator,
        options: GridOptions,
        wake: Callable[[], None],
    ) -> None:
        self._ledger, self._parameters, self._generator = ledger, parameters, generator
        self._options, self._wake = options, wake
        self._store = ledger.store
        self.on_kill: Callable[[int], None] = lambda panda_id: None
        """Called with the PandaID of a job that the embedded pilot has and that is to be killed."""

    def activate(self, job: JobRow, now: float) -> None:
        """Let a job wait for a pilot, or for its task to go on if that is paused."""
        job = self._ledger.move_job(job, JobState.DEFINED, now)
        job = self._ledger.move_job(job, JobState.ACTIVATED, now, due=now + self._options.queue_delay)
        if self._store.tasks.state(job.task_id) is TaskState.PAUSED:
            self._ledger.move_job(job, JobState.THROTTLED, now, due=None)

    def take(
        self, pilot: str, *, limit: int, now: float, host: str, queue: str | None = None, **restrict: Any
    ) -> list[JobRow]:
        """Give waiting jobs to a pilot.

        :param pilot: name of the pilot.
        :param restrict: ``owner`` or ``task_id`` that the jobs must be of.
        """
        due = None if pilot == EMBEDDED_PILOT else now + PILOT_SILENCE
        taken = [
            self._ledger.move_job(job, JobState.SENT, now, pilot=pilot, host=host, due=due)
            for job in self._store.jobs.activated(now, limit=limit, queue=queue, **restrict)
        ]
        self._ledger.flush()
        return taken

    def starting(self, job: JobRow, now: float) -> JobRow:
        """Note that a pilot has a job and prepares it."""
        job = self._ledger.move_job(job, JobState.STARTING, now)
        self._ledger.flush()
        return job

    def running(self, job: JobRow, now: float, *, pid: int | None = None, pid_started: float | None = None) -> JobRow:
        """Note that a payload runs, or still runs."""
        columns: dict[str, Any] = {}
        if job.started is None:
            columns["started"] = now
            self._store.inputs.set_state(job.task_id, job.chunk, InputState.RUNNING)
        if pid is not None:
            columns.update(pid=pid, pid_started=pid_started)
        if job.pilot != EMBEDDED_PILOT:
            columns["due"] = now + PILOT_SILENCE
        job = self._ledger.move_job(job, JobState.RUNNING, now, **columns)
        self._ledger.flush()
        return job

    def ended(self, job: JobRow, report: AttemptReport, now: float) -> None:
        """Take a pilot's last report: the job is held until its output is registered, then final."""
        columns: dict[str, Any] = {
            "ended": now,
            "started": job.started or now,
            "pid": None,
            "metadata": report.metadata if report.finished else None,
            "cpu_seconds": report.cpu_seconds,
            "trans_exit_code": None if report.exit_code is None else str(report.exit_code),
        }
        if report.pilot_error:
            columns["pilot_error_code"], columns["pilot_error_diag"] = report.pilot_error
        if report.exe_error:
            columns["exe_error_code"], columns["exe_error_diag"] = report.exe_error
        if job.command == "tobekilled":
            self.finalize(job, JobState.CANCELLED, now, **columns)
        else:
            outcome = JobState.FINISHED if report.finished else JobState.FAILED
            self._ledger.move_job(
                job, JobState.HOLDING, now, outcome=outcome, due=now + self._options.report_delay, **columns
            )
        self._ledger.flush()
        self._wake()

    def requeue(self, job: JobRow, now: float) -> None:
        """Give back a job whose payload was ended because the grid stops; the same attempt runs again."""
        self._ledger.move_job(job, JobState.ACTIVATED, now, due=now, pid=None, pilot=None, started=None)
        self._store.inputs.set_state(job.task_id, job.chunk, InputState.READY)

    def lose(self, job: JobRow, now: float) -> None:
        """Fail a job that no pilot speaks for any more; the next attempt follows where attempts are left."""
        text = f"lost heartbeat : {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(job.modified))}"
        log.warning("job %d of task %d: %s", job.panda_id, job.task_id, text)
        killed = job.command == "tobekilled"
        state = JobState.CANCELLED if killed else JobState.FAILED
        self.finalize(job, state, now, dispatcher_error_code=100, dispatcher_error_diag=text, ended=now, pid=None)

    def cancel(self, job: JobRow, reason: str, now: float) -> None:
        """End a job that no pilot has."""
        self.finalize(job, JobState.CANCELLED, now, buffer_error_code=100, buffer_error_diag=reason[:500], ended=now)

    def tell_to_stop(self, job: JobRow, reason: str, now: float) -> None:
        """Have a job killed by its pilot, at the pilot's next word or at once if it is the embedded one."""
        if job.command == "tobekilled":
            return
        self._store.jobs.update(
            job.panda_id, command="tobekilled", buffer_error_code=100, buffer_error_diag=reason[:500], modified=now
        )
        if job.pilot == EMBEDDED_PILOT:
            self.on_kill(job.panda_id)

    def finalize(self, job: JobRow, state: JobState, now: float, **columns: Any) -> None:
        """Bring a job into a final state, and draw the consequences for its inputs and its task."""
        job = self._ledger.move_job(job, state, now, due=None, **columns)
        inputs = self._store.inputs.of(job.task_id, job.chunk)
        task = self._store.tasks.existing(job.task_id)
        fate = machine.fate_of_inputs(
            state,
            attempt=job.attempt,
            max_attempt=inputs[0].max_attempt,
            auto_retry=self._parameters.refined(task).auto_retry,
            task_ending=task.state in (TaskState.ABORTING, TaskState.FINISHING),
        )
        finished = failed = opened = 0
        match fate:
            case Fate.FINISHED:
                self._store.inputs.set_state(task.task_id, job.chunk, InputState.FINISHED)
                finished = len(inputs)
            case Fate.FAILED:
                self._store.inputs.set_state(task.task_id, job.chunk, InputState.FAILED)
                failed = len(inputs)
            case Fate.LEFT:
                self._store.inputs.release(task.task_id, job.chunk)
            case Fate.RETRY:
                log.info("task %d: job %d failed, attempt %d follows", task.task_id, job.panda_id, job.attempt + 1)
                due = now + self._options.retry_delay
                self._generator.insert(task, inputs, attempt=job.attempt + 1, serial=task.next_serial, due=due, now=now)
                opened = 1
        self.after_jobs(
            self._store.tasks.add(task.task_id, finished=finished, failed=failed, open_jobs=opened - 1, serials=opened),
            now,
        )

    def after_jobs(self, task: TaskRow, now: float) -> None:
        """Move a task whose last open job may have ended."""
        if task.open_jobs or task.due is not None:
            return
        match task.state:
            case TaskState.RUNNING:
                self._store.tasks.update(task.task_id, due=now + self._options.finish_delay / 2)
            case TaskState.ABORTING:
                self._ledger.move_task(task, TaskState.TOABORT, now, due=now + self._options.finish_delay)
            case TaskState.FINISHING:
                self._ledger.move_task(task, TaskState.PASSED, now, due=now + self._options.finish_delay)
            case _:
                pass

    def recover(self, now: float) -> list[JobRow]:
        """After a hard stop: return the jobs whose embedded pilot is gone, each now a failed attempt."""
        lost = self._store.jobs.with_pilot(EMBEDDED_PILOT)
        for job in lost:
            self.lose(job, now)
        self._ledger.flush()
        return lost
