"""The embedded pilot: takes jobs and runs each as a process group in a directory of its own.

What it does around a payload follows panda-pilot 3.7 (facts/panda.md sections 8 and 11).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil

from airflow_provider_panda.local import machine
from airflow_provider_panda.local.auth import write_private
from airflow_provider_panda.local.directories import Directories
from airflow_provider_panda.local.jedi import AttemptReport, Engine
from airflow_provider_panda.local.options import GridOptions
from airflow_provider_panda.local.payload import (
    PayloadSetupError,
    in_container,
    last_line,
    payload_command,
    payload_environment,
)
from airflow_provider_panda.local.processes import end_group
from airflow_provider_panda.local.slots import Slots
from airflow_provider_panda.local.state import JOB_WITH_PILOT
from airflow_provider_panda.local.store import JobRow, Store, TaskRow

log = logging.getLogger(__name__)

HEARTBEAT: Final = 30.0
TERM_GRACE: Final = 5.0
REPORT_LIMIT: Final = 1024 * 1024
LOG_LIMIT: Final = 20 * 1024 * 1024
"""A payload whose stdout or stderr grows beyond this is killed, as the pilot does (its own limit is larger)."""
SCRATCH_GRACE: Final = 300.0
"""Seconds that the directory of an ended job stays, for whoever wants to look into it."""


class Worker:
    """Runs jobs of the embedded grid in slots.

    :param engine: gives jobs and takes reports.
    :param store: the grid's memory.
    :param options: slots, and the rate of faults.
    :param directories: where jobs run and logs stay.
    :param url: base URL of the server, for the environment of payloads.
    """

    def __init__(self, engine: Engine, store: Store, options: GridOptions, directories: Directories, url: str) -> None:
        self._engine, self._directories, self._url = engine, directories, url
        self._store, self._options = store, options
        self._slots = Slots(engine, options.slots, socket.gethostname(), self._start)
        self._running: dict[int, asyncio.Task[None]] = {}
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._killed: set[int] = set()
        self._stopping = False
        engine.attempts.on_kill = self.kill

    def _start(self, job: JobRow) -> None:
        task = asyncio.get_running_loop().create_task(self._run(job), name=f"job {job.panda_id}")
        self._running[job.panda_id] = task
        task.add_done_callback(partial(self._done, job.panda_id))

    def _done(self, panda_id: int, _: asyncio.Task[None]) -> None:
        self._running.pop(panda_id, None)
        self._processes.pop(panda_id, None)
        self._killed.discard(panda_id)
        self._slots.release(panda_id)

    def kill(self, panda_id: int) -> None:
        """End a job's processes: asked to first, killed after a grace."""
        if panda_id not in self._running:
            return
        self._killed.add(panda_id)
        process = self._processes.get(panda_id)
        if process is not None:
            end_group(process.pid, signal.SIGTERM)
            asyncio.get_running_loop().call_later(TERM_GRACE, self._kill_hard, panda_id, process)

    def _kill_hard(self, panda_id: int, process: asyncio.subprocess.Process) -> None:
        if self._processes.get(panda_id) is process and process.returncode is None:
            end_group(process.pid, signal.SIGKILL)

    async def stop(self) -> None:
        """End all jobs; they run again when the grid is started again."""
        self._stopping = True
        self._slots.close()
        for process in list(self._processes.values()):
            end_group(process.pid, signal.SIGTERM)
        running = list(self._running.values())
        if running:
            _, late = await asyncio.wait(running, timeout=TERM_GRACE)
            if late:
                for process in list(self._processes.values()):
                    end_group(process.pid, signal.SIGKILL)
                await asyncio.wait(late, timeout=TERM_GRACE)

    async def _run(self, job: JobRow) -> None:
        task = self._store.tasks.existing(job.task_id)
        scratch = self._directories.scratch / str(job.panda_id)
        try:
            report = await self._attempt(job, task, scratch)
        except PayloadSetupError as error:
            report = AttemptReport(finished=False, pilot_error=(error.code, str(error)[:500]))
        except Exception as error:
            log.exception("job %d of task %d: the embedded pilot failed", job.panda_id, job.task_id)
            report = AttemptReport(finished=False, pilot_error=(1144, f"pilot failed: {type(error).__name__}"))
        self._remove_secrets(scratch)
        current = self._store.jobs.existing(job.panda_id)
        now = time.time()
        if current.state not in JOB_WITH_PILOT:
            log.warning(
                "job %d: somebody else reported %s; what came of it here is dropped", job.panda_id, current.state
            )
            return
        if self._stopping and current.command != "tobekilled" and not report.finished:
            self._engine.attempts.requeue(current, now)
            self._engine.ledger.flush()
            return
        self._engine.attempts.ended(current, report, now)

    async def _attempt(self, job: JobRow, task: TaskRow, scratch: Path) -> AttemptReport:
        job = self._engine.attempts.starting(job, time.time())
        fault = machine.draw_fault(seed=self._options.seed, panda_id=job.panda_id, rate=self._options.failure_rate)
        if fault is not None and not fault.after_payload:
            return AttemptReport(finished=False, pilot_error=(fault.code, fault.text))
        shutil.rmtree(scratch, ignore_errors=True)
        (scratch / "tmp").mkdir(mode=0o700, parents=True)
        params = self._engine.parameters.refined(task).params
        command = payload_command(
            str(params.get("transPath", "")), job.parameters, self._directories.transforms, scratch
        )
        if params.get("container_name"):
            command = in_container(command, str(params["container_name"]), scratch)
        if params.get("useSecrets"):
            write_private(scratch / "panda_secrets.json", json.dumps(self._store.secrets.of(task.owner)))
        logs = self._directories.log_of(job)
        logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        before = os.times()
        exit_code, too_big = await self._execute(job, command, scratch, logs)
        after = os.times()
        report = self._read_report(scratch, job)
        cpu = round(after.children_user + after.children_system - before.children_user - before.children_system)
        if too_big:
            return AttemptReport(
                finished=False, exit_code=exit_code % 255, pilot_error=(1106, "Payload stdout or stderr too big")
            )
        if exit_code != 0:
            line = last_line(logs / "payload.stderr")
            pilot_error = machine.payload_error(exit_code=exit_code, last_line=line)
            code = exit_code % 255
            return AttemptReport(
                finished=False,
                exit_code=code,
                pilot_error=pilot_error,
                exe_error=(code, line) if code else None,
                cpu_seconds=cpu,
            )
        if fault is not None:
            return AttemptReport(finished=False, exit_code=0, pilot_error=(fault.code, fault.text), cpu_seconds=cpu)
        return AttemptReport(finished=True, exit_code=0, metadata=report, cpu_seconds=cpu)

    async def _execute(self, job: JobRow, command: list[str], scratch: Path, logs: Path) -> tuple[int, bool]:
        """Run a payload to its end; return its exit code, and whether its output was too big."""
        if job.panda_id in self._killed or self._stopping:
            return -int(signal.SIGTERM), False
        with (logs / "payload.stdout").open("wb") as out, (logs / "payload.stderr").open("wb") as err:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    cwd=scratch,
                    env=payload_environment(job, scratch, self._url),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                )
            except OSError as error:
                raise PayloadSetupError(1305, f"Failed to execute payload:{error.strerror or error}") from None
        self._processes[job.panda_id] = process
        try:
            started = psutil.Process(process.pid).create_time()
        except psutil.NoSuchProcess:
            started = time.time()
        job = self._engine.attempts.running(job, time.time(), pid=process.pid, pid_started=started)
        if job.panda_id in self._killed or self._stopping:
            end_group(process.pid, signal.SIGTERM)
        too_big = False
        since_heartbeat = 0.0
        waiting = asyncio.ensure_future(process.wait())
        while True:
            done, _ = await asyncio.wait({waiting}, timeout=5.0)
            if done:
                break
            since_heartbeat += 5.0
            if any((logs / name).stat().st_size > LOG_LIMIT for name in ("payload.stdout", "payload.stderr")):
                too_big = True
                end_group(process.pid, signal.SIGKILL)
            if since_heartbeat >= HEARTBEAT:
                since_heartbeat = 0.0
                current = self._store.jobs.get(job.panda_id)
                if current is not None and current.state in JOB_WITH_PILOT:
                    self._engine.attempts.running(current, time.time())
        exit_code = waiting.result()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # what the payload left in the background
        for name in ("payload.stdout", "payload.stderr"):
            if (logs / name).stat().st_size > LOG_LIMIT:
                os.truncate(logs / name, LOG_LIMIT)
        return exit_code, too_big

    def _read_report(self, scratch: Path, job: JobRow) -> str | None:
        path = scratch / "jobReport.json"
        if path.is_symlink() or not path.is_file():
            return None
        if path.stat().st_size > REPORT_LIMIT:
            log.warning("job %d: jobReport.json is over 1 MiB and is not kept", job.panda_id)
            return None
        return path.read_text(errors="replace")

    @staticmethod
    def _remove_secrets(scratch: Path) -> None:
        with contextlib.suppress(OSError):
            (scratch / "panda_secrets.json").unlink()

    async def sweep(self, period: float = 60.0) -> None:
        """Remove the directories of jobs that ended a while ago, again and again, until cancelled."""
        while True:
            names: list[Any] = [p.name for p in self._directories.scratch.iterdir() if p.name.isdigit()]
            ids = [int(name) for name in names if int(name) not in self._running]
            for panda_id in self._store.jobs.final_since(ids, time.time() - SCRATCH_GRACE):
                await asyncio.to_thread(shutil.rmtree, self._directories.scratch / str(panda_id), ignore_errors=True)
            await asyncio.sleep(period)
