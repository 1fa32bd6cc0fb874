"""The embedded pilot: takes jobs and runs each as a process group in a directory of its own.

What it does around a payload follows panda-pilot 3.7 (facts/panda.md sections 8 and 11).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil

from airflow_provider_panda.local import machine
from airflow_provider_panda.local.auth import write_private
from airflow_provider_panda.local.jedi import EMBEDDED_PILOT, AttemptReport, Engine
from airflow_provider_panda.local.options import GridOptions
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
_PASSED_ON: Final = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "LD_LIBRARY_PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
)


class PayloadSetupError(Exception):
    """A payload cannot be started.

    :param code: pilotErrorCode.
    """

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        super().__init__(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Directories:
    """Where the embedded grid keeps what.

    :param data: the whole.
    """

    data: Path

    @property
    def cache(self) -> Path:
        """Uploaded archives."""
        return self.data / "cache"

    @property
    def scratch(self) -> Path:
        """Working directories of jobs."""
        return self.data / "scratch"

    @property
    def logs(self) -> Path:
        """Payload logs: ``<jediTaskID>/<PandaID>/payload.stdout`` and ``payload.stderr``."""
        return self.data / "logs"

    @property
    def transforms(self) -> Path:
        """Executables that stand for transforms."""
        return self.data / "trf"

    def make(self) -> None:
        """Make them all, readable by the owner only."""
        for path in (self.data, self.cache, self.scratch, self.logs, self.transforms):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def log_of(self, job: JobRow) -> Path:
        """Return the directory of a job's payload logs."""
        return self.logs / str(job.task_id) / str(job.panda_id)


def payload_command(transform: str, parameters: str, transforms: Path, scratch: Path) -> list[str]:
    """Return the command of a payload, after the name of its transform.

    :param transform: transPath of the task; only its last part counts.
    :param parameters: jobParameters as delivered.
    :param transforms: directory of further executables.
    :param scratch: working directory, into which such an executable is copied.
    :raises PayloadSetupError: the transform is not known, or the parameters are not what it takes.
    """
    name = transform.rstrip("/").rsplit("/", 1)[-1]
    if name in ("bash-c-enc", "bash-c-enc-new"):
        try:
            return ["/bin/bash", "-c", base64.b64decode("".join(parameters.split()), validate=True).decode()]
        except (binascii.Error, UnicodeDecodeError) as error:
            raise PayloadSetupError(1305, f"Failed to execute payload:{name}: no base64 ({error})") from None
    if name == "bash-c":
        return ["/bin/bash", "-c", parameters]
    source = transforms / name
    if not name or name.startswith(".") or not source.is_file():
        raise PayloadSetupError(
            1132, f"Failed to download transform: {transform} (no executable {name or '?'} in {transforms})"
        )
    shutil.copyfile(source, scratch / name)
    (scratch / name).chmod(0o755)
    return ["/bin/bash", "-c", f"./{name} {parameters}"]


def in_container(command: list[str], image: str, scratch: Path) -> list[str]:
    """Return a command that runs another in a container.

    :raises PayloadSetupError: neither apptainer nor singularity is installed here.
    """
    runtime = shutil.which("apptainer") or shutil.which("singularity")
    if runtime is None:
        raise PayloadSetupError(
            1305, f"Failed to execute payload:container {image} needs apptainer or singularity, and none is on PATH"
        )
    return [runtime, "exec", "--bind", str(scratch), "--pwd", str(scratch), image, *command]


def payload_environment(job: JobRow, scratch: Path, url: str) -> dict[str, str]:
    """Return the environment of a payload: the pilot's, and nothing of ours."""
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    queue = job.queue or ""
    return {
        **passed_on,
        "HOME": str(scratch),
        "TMPDIR": str(scratch / "tmp"),
        "PWD": str(scratch),
        "PANDAID": str(job.panda_id),
        "PanDA_TaskID": str(job.task_id),
        "PanDA_AttemptNr": str(job.attempt),
        "PANDA_JSID": "embedded",
        "PILOT_SITENAME": queue,
        "PANDA_RESOURCE": queue,
        "PANDA_SITE_NAME": queue,
        "PILOT_HOME": str(scratch),
        "PILOT_USER": "generic",
        "PANDACACHE_URL": f"{url}/server/panda",
    }


def last_line(path: Path, size: int = 4096) -> str:
    """Return the last line of a file that is not blank, shortened."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - size))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip()[:400] for line in reversed(lines) if line.strip()), "")


def end_group(pid: int, signal_number: int) -> None:
    """Signal a process group, and children that left it."""
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        children = []
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal_number)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            child.send_signal(signal_number)


def end_leftover(job: JobRow) -> None:
    """End the processes that a job of a killed grid left behind, if they are still those."""
    if job.pid is None:
        return
    try:
        started = psutil.Process(job.pid).create_time()
    except psutil.NoSuchProcess:
        # the leader is gone; its group may live on, and its number is not reused while it does
        for process in psutil.process_iter(["pid"]):
            with contextlib.suppress(OSError, psutil.Error):
                if os.getpgid(process.pid) == job.pid and process.environ().get("PANDAID") == str(job.panda_id):
                    process.kill()
        return
    if job.pid_started is not None and abs(started - job.pid_started) < 2:
        log.info("ending what job %d left running", job.panda_id)
        end_group(job.pid, signal.SIGKILL)


class Worker:
    """Runs jobs of the embedded grid in slots.

    :param engine: gives jobs and takes reports.
    :param directories: where jobs run and logs stay.
    :param url: base URL of the server, for the environment of payloads.
    """

    def __init__(self, engine: Engine, directories: Directories, url: str) -> None:
        self._engine, self._directories, self._url = engine, directories, url
        self._store: Store = engine.store
        self._options: GridOptions = engine.options
        self._host = socket.gethostname()
        self._running: dict[int, asyncio.Task[None]] = {}
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._killed: set[int] = set()
        self._stopping = False
        engine.on_activated = self._fill
        engine.on_kill = self.kill
        engine.free_slots = self.free_slots

    def free_slots(self) -> int:
        """Return how many more jobs may run now."""
        return 0 if self._stopping else self._options.slots - len(self._running)

    def _fill(self) -> None:
        free = self.free_slots()
        if free <= 0:
            return
        for job in self._engine.take(EMBEDDED_PILOT, limit=free, now=time.time(), host=self._host):
            task = asyncio.get_running_loop().create_task(self._run(job), name=f"job {job.panda_id}")
            self._running[job.panda_id] = task
            task.add_done_callback(partial(self._done, job.panda_id))

    def _done(self, panda_id: int, _: asyncio.Task[None]) -> None:
        self._running.pop(panda_id, None)
        self._processes.pop(panda_id, None)
        self._killed.discard(panda_id)
        self._engine.wake()

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
        task = self._store.task(job.task_id)
        assert task is not None
        scratch = self._directories.scratch / str(job.panda_id)
        try:
            report = await self._attempt(job, task, scratch)
        except PayloadSetupError as error:
            report = AttemptReport(finished=False, pilot_error=(error.code, str(error)[:500]))
        except Exception as error:
            log.exception("job %d of task %d: the embedded pilot failed", job.panda_id, job.task_id)
            report = AttemptReport(finished=False, pilot_error=(1144, f"pilot failed: {type(error).__name__}"))
        self._remove_secrets(scratch)
        current = self._store.job(job.panda_id)
        assert current is not None
        now = time.time()
        if current.state not in JOB_WITH_PILOT:
            log.warning(
                "job %d: somebody else reported %s; what came of it here is dropped", job.panda_id, current.state
            )
            return
        if self._stopping and current.command != "tobekilled" and not report.finished:
            self._engine.requeue(current, now)
            self._engine.flush()
            return
        self._engine.ended(current, report, now)

    async def _attempt(self, job: JobRow, task: TaskRow, scratch: Path) -> AttemptReport:
        job = self._engine.starting(job, time.time())
        fault = machine.draw_fault(seed=self._options.seed, panda_id=job.panda_id, rate=self._options.failure_rate)
        if fault is not None and not fault.after_payload:
            return AttemptReport(finished=False, pilot_error=(fault.code, fault.text))
        shutil.rmtree(scratch, ignore_errors=True)
        (scratch / "tmp").mkdir(mode=0o700, parents=True)
        params = self._engine.refined(task).params
        command = payload_command(
            str(params.get("transPath", "")), job.parameters, self._directories.transforms, scratch
        )
        if params.get("container_name"):
            command = in_container(command, str(params["container_name"]), scratch)
        if params.get("useSecrets"):
            write_private(scratch / "panda_secrets.json", json.dumps(self._store.secrets(task.owner)))
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
        job = self._engine.running(job, time.time(), pid=process.pid, pid_started=started)
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
                current = self._store.job(job.panda_id)
                if current is not None and current.state in JOB_WITH_PILOT:
                    self._engine.running(current, time.time())
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
            for panda_id in self._store.final_since(ids, time.time() - SCRATCH_GRACE):
                await asyncio.to_thread(shutil.rmtree, self._directories.scratch / str(panda_id), ignore_errors=True)
            await asyncio.sleep(period)
