"""The engine of the embedded grid: moves tasks and jobs on when their time has come.

Everything that is still to happen stands in the store (column ``due``), so a restart goes on where it was.
Decisions are :mod:`.machine`'s; this applies them, one transaction a cycle.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from airflow_provider_panda.local import machine
from airflow_provider_panda.local.machine import Fate
from airflow_provider_panda.local.notices import DESTINATION, Publisher, job_notice, task_notice
from airflow_provider_panda.local.options import GridOptions
from airflow_provider_panda.local.refine import PSEUDO_DATASET, BrokenTaskError, Refined, job_text, refine
from airflow_provider_panda.local.state import (
    JOB_QUEUED,
    JOB_TERMINAL,
    JOB_WITH_PILOT,
    TASK_TERMINAL,
    Command,
    InputState,
    JobState,
    TaskState,
)
from airflow_provider_panda.local.store import InputRow, JobRow, NewJob, Store, TaskRow, as_json

log = logging.getLogger(__name__)

Row = TypeVar("Row", TaskRow, JobRow)

EMBEDDED_PILOT: Final = "embedded"
BATCH: Final = 20
"""Jobs that one step of the engine moves at most, so that requests are answered in between."""
KILL_BATCH: Final = 60
"""Queued jobs that one step cancels at most."""
BREATH: Final = 0.003
"""Seconds that the engine leaves to others between steps while there is more to do."""
BROKERAGE_PERIOD: Final = 5.0
PUT_OFF: Final = 60
"""Seconds until a step that failed unexpectedly is tried again."""
PILOT_SILENCE: Final = 6 * 3600.0
"""An outside pilot that says nothing for so long has lost its job."""
RETRY_ATTEMPTS: Final = 5
"""Attempts that a retry command adds to a failed input (seen once: 1 became 6)."""


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


class Engine:
    """Moves tasks and jobs.

    :param store: the grid's memory.
    :param options: delays, queues, VOs.
    :param publisher: where status messages go.
    :param base_url: the server's own URL, for links.
    """

    def __init__(self, store: Store, options: GridOptions, publisher: Publisher, base_url: str) -> None:
        self.store, self.options, self.base_url = store, options, base_url
        self._publisher = publisher
        self._refined: OrderedDict[int, Refined] = OrderedDict()
        self._wake = asyncio.Event()
        self._outbox: list[str] = []
        self.on_kill: Callable[[int], None] = lambda panda_id: None
        """Called with the PandaID of a job that the embedded pilot has and that is to be killed."""
        self.on_activated: Callable[[], None] = lambda: None
        """Called when a job may be taken."""
        self.free_slots: Callable[[], int] = lambda: 0

    # --- the cycle ------------------------------------------------------------------------------------------

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
                self._forget_changes()
                log.exception("the engine's cycle failed; it is tried again in a second")
                await asyncio.sleep(1)
                continue
            if more:
                await asyncio.sleep(BREATH)
                continue
            upcoming = self.store.next_due(with_activated=self.free_slots() > 0)
            pause = None if upcoming is None else max(0.0, upcoming - time.time())
            try:
                await asyncio.wait_for(self._wake.wait(), pause)
            except TimeoutError:
                continue

    def step(self, now: float) -> bool:
        """Move everything that is due, and return whether there is more to do at once."""
        tasks = self.store.due_tasks(now, BATCH)
        self._apply(tasks, lambda task: self._step_task(task, now), self._put_off_task)
        pending = self.store.due_jobs(JobState.PENDING, now, BATCH)
        self._apply(pending, lambda job: self._activate(job, now), self._put_off_job)
        held = self.store.due_jobs(JobState.HOLDING, now, BATCH)
        self._apply(
            held, lambda job: self._finalize(job, JobState(job.outcome or JobState.FAILED), now), self._put_off_job
        )
        silent = [job for state in JOB_WITH_PILOT for job in self.store.due_jobs(state, now, BATCH)]
        self._apply(silent, lambda job: self.lose(job, now), self._put_off_job)
        if self.free_slots() > 0:
            self.on_activated()
        return bool(tasks or pending or held or silent)

    def _apply(self, rows: Sequence[Row], act: Callable[[Row], None], put_off: Callable[[Row], None]) -> None:
        """Move rows in one transaction; where one fails, each in its own, so that it does not hold up the others."""
        try:
            for row in rows:
                act(row)
            self.flush()
            return
        except Exception:
            self._forget_changes()
            if len(rows) > 1:
                log.debug("a batch failed; its rows are moved one by one", exc_info=True)
        for row in rows:
            try:
                act(row)
                self.flush()
            except Exception:
                self._forget_changes()
                log.exception("a step failed; it is tried again in %d s", PUT_OFF)
                put_off(row)
                self.flush()

    def _forget_changes(self) -> None:
        self.store.rollback()
        self._outbox.clear()

    def _put_off_task(self, task: TaskRow) -> None:
        self.store.update_task(task.task_id, due=time.time() + PUT_OFF)

    def _put_off_job(self, job: JobRow) -> None:
        self.store.update_job(job.panda_id, due=time.time() + PUT_OFF)

    def flush(self) -> None:
        """Commit, then send what the changes had to say."""
        self.store.commit()
        messages, self._outbox = self._outbox, []
        for body in messages:
            self._publisher.publish(DESTINATION, body)

    # --- tasks ----------------------------------------------------------------------------------------------

    def refined(self, task: TaskRow) -> Refined:
        """Return a task's parameters as refined."""
        known = self._refined.get(task.task_id)
        if known is None:
            known = refine(json.loads(task.params), task_id=task.task_id, vos=self.options.vos)
            self._refined[task.task_id] = known
            while len(self._refined) > 64:
                self._refined.popitem(last=False)
        else:
            self._refined.move_to_end(task.task_id)
        return known

    def forget(self, task_id: int) -> None:
        """Drop what was derived from a task's parameters, since they changed."""
        self._refined.pop(task_id, None)

    def move_task(self, task: TaskRow, state: TaskState, now: float, **columns: Any) -> TaskRow:
        """Bring a task into a state, and say so."""
        machine.check_task(task.state, state)
        columns.setdefault("due", None)
        if state in TASK_TERMINAL:
            columns["ended"] = now
        self.store.update_task(task.task_id, state=state, modified=now, state_changed=now, **columns)
        notice = task_notice(task.task_id, state, now)
        if notice:
            self._outbox.append(notice)
        level = logging.INFO if state in TASK_TERMINAL or state is TaskState.RUNNING else logging.DEBUG
        log.log(level, "task %d (%s): %s -> %s", task.task_id, task.name, task.state, state)
        return replace(task, state=state, modified=now, state_changed=now, **columns)

    def _step_task(self, task: TaskRow, now: float) -> None:
        match task.state:
            case TaskState.WAITING:
                self._register(task, now)
            case TaskState.DEFINED | TaskState.PENDING:
                self._broker(task, now)
            case TaskState.READY | TaskState.RUNNING:
                self._generate(task, now)
            case TaskState.PREPARED | TaskState.PASSED:
                self._end(task, now)
            case TaskState.ABORTING | TaskState.FINISHING:
                self._execute(task, now)
            case TaskState.TOABORT:
                self.move_task(task, TaskState.ABORTED, now)
            case TaskState.TOBROKEN:
                self.move_task(task, TaskState.BROKEN, now)
            case TaskState.TORETRY:
                self._revive(task, now)
            case TaskState.REREFINE:
                self._extend(task, now)
            case _:
                log.warning("task %d: nothing is due in state %s", task.task_id, task.state)
                self.store.update_task(task.task_id, due=None)

    def _register(self, task: TaskRow, now: float) -> None:
        try:
            refined = self.refined(task)
        except BrokenTaskError as error:
            log.info("task %d (%s) is broken: %s", task.task_id, task.name, error)
            self.move_task(
                task, TaskState.TOBROKEN, now, error_dialog=str(error), due=now + self.options.finish_delay, started=now
            )
            return
        task = self.move_task(task, TaskState.REGISTERED, now, started=now)
        dataset = self.store.insert_dataset(task.task_id, PSEUDO_DATASET, "pseudo_input")
        self.store.insert_inputs(
            task.task_id, dataset, refined.lfns, per_job=refined.per_job, max_attempt=refined.max_attempt
        )
        for output in refined.outputs:
            self.store.insert_dataset(task.task_id, output.dataset, output.kind)
        task = self.move_task(task, TaskState.DEFINED, now, n_inputs=len(refined.lfns), due=now)
        self._broker(task, now)

    def _broker(self, task: TaskRow, now: float) -> None:
        brokered = machine.broker(task.site, self.options.queues)
        if brokered.queue is not None:
            task = self.move_task(task, TaskState.READY, now, queue=brokered.queue, error_dialog=None, due=now)
            self._generate(task, now)
            return
        dialog = machine.brokerage_dialog(task.task_id, brokered.reason or "", self.base_url)
        if task.state is TaskState.PENDING:
            self.store.update_task(task.task_id, due=now + BROKERAGE_PERIOD)
        else:
            log.info(
                "task %d (%s): %s; known queues: %s", task.task_id, task.name, brokered.reason, self.options.queues
            )
            self.move_task(task, TaskState.PENDING, now, error_dialog=dialog, due=now + BROKERAGE_PERIOD)

    def _generate(self, task: TaskRow, now: float) -> None:
        chunks = self.store.unassigned_chunks(task.task_id, BATCH)
        for offset, inputs in enumerate(chunks):
            self._insert_job(
                task, inputs, attempt=inputs[0].attempt + 1, serial=task.next_serial + offset, due=now, now=now
            )
        task = self.store.add_to_task(task.task_id, open_jobs=len(chunks), serials=len(chunks))
        if task.state is TaskState.READY:
            task = self.move_task(task, TaskState.RUNNING, now)
        if len(chunks) == BATCH:
            self.store.update_task(task.task_id, due=now)
        elif task.open_jobs:
            self.store.update_task(task.task_id, due=None)
        else:
            self.move_task(task, TaskState.PREPARED, now, due=now + self.options.finish_delay / 2)

    def _insert_job(
        self, task: TaskRow, inputs: list[InputRow], *, attempt: int, serial: int, due: float, now: float
    ) -> None:
        text = job_text(self.refined(task), inputs=[i.lfn for i in inputs], serial=serial, attempt=attempt)
        panda_id = self.store.insert_job(
            NewJob(
                task_id=task.task_id,
                chunk=inputs[0].chunk,
                attempt=attempt,
                serial=serial,
                label=task.label,
                queue=task.queue or self.options.queues[0],
                parameters=text.parameters,
                files=as_json(text.files),
                due=due,
            ),
            now,
        )
        job = self.store.job(panda_id)
        assert job is not None
        self._say_job(job, now, inputs)

    def _end(self, task: TaskRow, now: float) -> None:
        state = machine.final_state(inputs=task.n_inputs, finished=task.n_finished)
        dialog = machine.NOTHING_PROCESSED if state is TaskState.FAILED else task.error_dialog
        self.move_task(task, state, now, error_dialog=dialog)

    def _execute(self, task: TaskRow, now: float) -> None:
        """Act on a kill or finish command whose delay has passed."""
        who = task.commanded_by or task.owner
        queued: list[JobRow] = []
        for state in JOB_QUEUED:  # one by one, so that the index gives them in order
            queued += self.store.jobs_of(task.task_id, [state], limit=KILL_BATCH - len(queued))
        for job in queued:
            self.cancel(job, f"kill by {who}", now)
        if len(queued) == KILL_BATCH:
            return  # still due: the others at the next step
        if not (task.state is TaskState.FINISHING and task.soft):
            for job in self.store.jobs_of(task.task_id, JOB_WITH_PILOT):
                self.tell_to_stop(job, f"kill by {who}", now)
        self.store.update_task(task.task_id, due=None)
        self._after_jobs(self.store.add_to_task(task.task_id), now)

    def _revive(self, task: TaskRow, now: float) -> None:
        self.store.revive_inputs(task.task_id, more_attempts=RETRY_ATTEMPTS)
        task = self.store.add_to_task(task.task_id, failed=-task.n_failed)
        queued = task.queue is not None
        task = self.move_task(task, TaskState.READY, now, due=now, ended=None, error_dialog=None)
        if not queued:
            self.store.update_task(task.task_id, queue=machine.broker(task.site, self.options.queues).queue)

    def _extend(self, task: TaskRow, now: float) -> None:
        """Take new parameters of a task that had ended: add inputs that are new, try again what had failed."""
        try:
            refined = self.refined(task)
        except BrokenTaskError as error:
            self.store.update_task(task.task_id, error_dialog=str(error))
            task = self.move_task(task, TaskState.READY, now, due=now)
            return
        known = self.store.inputs(task.task_id)
        names = {i.lfn.split(":", 1)[-1] for i in known}
        new = [lfn for lfn in refined.lfns if lfn.split(":", 1)[-1] not in names]
        if new:
            dataset = (
                known[0].dataset_id
                if known
                else self.store.insert_dataset(task.task_id, PSEUDO_DATASET, "pseudo_input")
            )
            self.store.insert_inputs(
                task.task_id,
                dataset,
                new,
                per_job=refined.per_job,
                max_attempt=refined.max_attempt,
                first_chunk=max((i.chunk for i in known), default=-1) + 1,
            )
            self.store.update_task(task.task_id, n_inputs=len(known) + len(new))
        self._revive(task, now)

    # --- commands -------------------------------------------------------------------------------------------

    def command(self, task: TaskRow, command: Command, *, by: str, now: float, soft: bool = False) -> None:
        """Take a command for a task that accepts it (:func:`machine.accepts`)."""
        log.info("task %d (%s): %s by %s", task.task_id, task.name, command, by)
        due = now + self.options.command_delay
        common: dict[str, Any] = {"commanded_by": by, "old_state": task.state, "soft": int(soft)}
        match command:
            case Command.KILL:
                self.move_task(task, TaskState.ABORTING, now, due=due, **common)
            case Command.FINISH:
                self.move_task(task, TaskState.FINISHING, now, due=due, **common)
            case Command.RETRY:
                self.move_task(task, TaskState.TORETRY, now, due=due, **common)
            case Command.PAUSE:
                self.move_task(task, TaskState.PAUSED, now, **common)
                for job in self.store.jobs_of(task.task_id, [JobState.ACTIVATED]):
                    self.move_job(job, JobState.THROTTLED, now, due=None)
            case Command.RESUME:
                previous = TaskState(task.old_state or TaskState.READY)
                if previous is TaskState.REGISTERED:
                    previous = TaskState.DEFINED
                self.move_task(task, previous, now, due=now, commanded_by=by, old_state=None)
                for job in self.store.jobs_of(task.task_id, [JobState.THROTTLED]):
                    self.move_job(job, JobState.ACTIVATED, now, due=now)
        self.wake()

    def retry_running(self, task: TaskRow, now: float) -> int:
        """Try the failed inputs of a running task again, and return how many there were."""
        failed = self.store.revive_inputs(task.task_id, more_attempts=RETRY_ATTEMPTS)
        if failed:
            self.store.add_to_task(task.task_id, failed=-task.n_failed)
            self.store.update_task(task.task_id, due=now, modified=now)
            self.wake()
        return failed

    # --- jobs -----------------------------------------------------------------------------------------------

    def move_job(self, job: JobRow, state: JobState, now: float, **columns: Any) -> JobRow:
        """Bring a job into a state, and say so."""
        machine.check_job(job.state, state)
        columns.update(state=state, modified=now, state_changed=now)
        self.store.update_job(job.panda_id, **columns)
        moved = replace(job, **columns)
        self._say_job(moved, now)
        return moved

    def _say_job(self, job: JobRow, now: float, inputs: list[InputRow] | None = None) -> None:
        if inputs is None:
            without_inputs = job.state in (JobState.STARTING, JobState.RUNNING, JobState.SENT, JobState.HOLDING)
            inputs = [] if without_inputs else self.store.inputs(job.task_id, job.chunk)
        notice = job_notice(job, job.state, [i.lfn for i in inputs], now)
        if notice:
            self._outbox.append(notice)

    def _activate(self, job: JobRow, now: float) -> None:
        job = self.move_job(job, JobState.DEFINED, now)
        job = self.move_job(job, JobState.ACTIVATED, now, due=now + self.options.queue_delay)
        if self.store.task_state(job.task_id) is TaskState.PAUSED:
            self.move_job(job, JobState.THROTTLED, now, due=None)

    def take(
        self, pilot: str, *, limit: int, now: float, host: str, queue: str | None = None, **restrict: Any
    ) -> list[JobRow]:
        """Give waiting jobs to a pilot.

        :param pilot: name of the pilot.
        :param restrict: ``owner`` or ``task_id`` that the jobs must be of.
        """
        due = None if pilot == EMBEDDED_PILOT else now + PILOT_SILENCE
        taken = [
            self.move_job(job, JobState.SENT, now, pilot=pilot, host=host, due=due)
            for job in self.store.activated_jobs(now, limit=limit, queue=queue, **restrict)
        ]
        self.flush()
        return taken

    def starting(self, job: JobRow, now: float) -> JobRow:
        """Note that a pilot has a job and prepares it."""
        job = self.move_job(job, JobState.STARTING, now)
        self.flush()
        return job

    def running(self, job: JobRow, now: float, *, pid: int | None = None, pid_started: float | None = None) -> JobRow:
        """Note that a payload runs, or still runs."""
        columns: dict[str, Any] = {}
        if job.started is None:
            columns["started"] = now
            self.store.set_inputs(job.task_id, job.chunk, InputState.RUNNING)
        if pid is not None:
            columns.update(pid=pid, pid_started=pid_started)
        if job.pilot != EMBEDDED_PILOT:
            columns["due"] = now + PILOT_SILENCE
        job = self.move_job(job, JobState.RUNNING, now, **columns)
        self.flush()
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
            self._finalize(job, JobState.CANCELLED, now, **columns)
        else:
            outcome = JobState.FINISHED if report.finished else JobState.FAILED
            self.move_job(job, JobState.HOLDING, now, outcome=outcome, due=now + self.options.report_delay, **columns)
        self.flush()
        self.wake()

    def requeue(self, job: JobRow, now: float) -> None:
        """Give back a job whose payload was ended because the grid stops; the same attempt runs again."""
        self.move_job(job, JobState.ACTIVATED, now, due=now, pid=None, pilot=None, started=None)
        self.store.set_inputs(job.task_id, job.chunk, InputState.READY)

    def lose(self, job: JobRow, now: float) -> None:
        """Fail a job that no pilot speaks for any more; the next attempt follows where attempts are left."""
        text = f"lost heartbeat : {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(job.modified))}"
        log.warning("job %d of task %d: %s", job.panda_id, job.task_id, text)
        killed = job.command == "tobekilled"
        state = JobState.CANCELLED if killed else JobState.FAILED
        self._finalize(job, state, now, dispatcher_error_code=100, dispatcher_error_diag=text, ended=now, pid=None)

    def cancel(self, job: JobRow, reason: str, now: float) -> None:
        """End a job that no pilot has."""
        self._finalize(job, JobState.CANCELLED, now, buffer_error_code=100, buffer_error_diag=reason[:500], ended=now)

    def tell_to_stop(self, job: JobRow, reason: str, now: float) -> None:
        """Have a job killed by its pilot, at the pilot's next word or at once if it is the embedded one."""
        if job.command == "tobekilled":
            return
        self.store.update_job(
            job.panda_id, command="tobekilled", buffer_error_code=100, buffer_error_diag=reason[:500], modified=now
        )
        if job.pilot == EMBEDDED_PILOT:
            self.on_kill(job.panda_id)

    def _finalize(self, job: JobRow, state: JobState, now: float, **columns: Any) -> None:
        job = self.move_job(job, state, now, due=None, **columns)
        inputs = self.store.inputs(job.task_id, job.chunk)
        task = self.store.task(job.task_id)
        assert task is not None
        fate = machine.fate_of_inputs(
            state,
            attempt=job.attempt,
            max_attempt=inputs[0].max_attempt,
            auto_retry=self.refined(task).auto_retry,
            task_ending=task.state in (TaskState.ABORTING, TaskState.FINISHING),
        )
        finished = failed = opened = 0
        match fate:
            case Fate.FINISHED:
                self.store.set_inputs(task.task_id, job.chunk, InputState.FINISHED)
                finished = len(inputs)
            case Fate.FAILED:
                self.store.set_inputs(task.task_id, job.chunk, InputState.FAILED)
                failed = len(inputs)
            case Fate.LEFT:
                self.store.release_inputs(task.task_id, job.chunk)
            case Fate.RETRY:
                log.info("task %d: job %d failed, attempt %d follows", task.task_id, job.panda_id, job.attempt + 1)
                due = now + self.options.retry_delay
                self._insert_job(task, inputs, attempt=job.attempt + 1, serial=task.next_serial, due=due, now=now)
                opened = 1
        self._after_jobs(
            self.store.add_to_task(
                task.task_id, finished=finished, failed=failed, open_jobs=opened - 1, serials=opened
            ),
            now,
        )

    def _after_jobs(self, task: TaskRow, now: float) -> None:
        """Move a task whose last open job may have ended."""
        if task.open_jobs or task.due is not None:
            return
        match task.state:
            case TaskState.RUNNING:
                self.store.update_task(task.task_id, due=now + self.options.finish_delay / 2)
            case TaskState.ABORTING:
                self.move_task(task, TaskState.TOABORT, now, due=now + self.options.finish_delay)
            case TaskState.FINISHING:
                self.move_task(task, TaskState.PASSED, now, due=now + self.options.finish_delay)
            case _:
                pass

    def recover(self, now: float) -> list[JobRow]:
        """After a hard stop: return the jobs whose embedded pilot is gone, each now a failed attempt."""
        lost = self.store.jobs_with_pilot(EMBEDDED_PILOT)
        for job in lost:
            self.lose(job, now)
        self.flush()
        return lost


def is_final(job: JobRow) -> bool:
    """Whether a job will not change any more."""
    return job.state in JOB_TERMINAL
