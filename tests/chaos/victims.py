"""Which process a fault hits, among those that run at this moment."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import psutil

from tests.chaos.installation import Installation
from tests.chaos.plan import Fault

WAIT: Final = 20.0
"""Seconds that a fault waits for a process that it can hit."""

_SUPERVISOR: Final = "airflow worker -- LocalExecutor: "
_TASK: Final = "airflow worker -- "
_SERVE_LOGS: Final = "airflow serve-logs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A worker at work.

    :param supervisor: LocalExecutor's process, which talks to the API.
    :param task: the process in which the operator runs.
    """

    supervisor: psutil.Process
    task: psutil.Process


def find(fault: Fault, installation: Installation) -> psutil.Process | None:
    """Return the process that a fault hits; None: there was none for :data:`WAIT` seconds."""
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        with contextlib.suppress(psutil.Error):
            if (found := _find(fault, installation)) is not None:
                return found
        time.sleep(0.1)
    return None


def _find(fault: Fault, installation: Installation) -> psutil.Process | None:
    name = fault.kind.name
    if fault.kind.victim == "worker":
        workers = workers_at_work(installation.parts["scheduler"].pid())
        if not workers:
            return None
        worker = workers[int(fault.draw * len(workers))]
        return worker.task if name.startswith("worker-task-") else worker.supervisor
    pid = installation.parts[fault.kind.victim].pid()
    return runner(pid) if name.startswith("runner-") else psutil.Process(pid)


def workers_at_work(scheduler: int) -> list[Worker]:
    """Return the workers that have begun a task, by process id.

    One that has taken a task and not begun it is none: LocalExecutor cannot take a task back, so Airflow 3.3.2 would
    leave that task queued until the next start of its scheduler (``_handle_tasks_stuck_in_queued``).
    """
    found = []
    for child in psutil.Process(scheduler).children():
        with contextlib.suppress(psutil.Error):
            if _title(child).startswith(_SUPERVISOR):
                found += [Worker(supervisor=child, task=task) for task in child.children() if _is_task(task)]
    return sorted(found, key=lambda worker: worker.task.pid)


def runner(triggerer: int) -> psutil.Process | None:
    """Return the process under a triggerer that runs its triggers."""
    children = psutil.Process(triggerer).children()
    return next((child for child in children if not _title(child).startswith(_SERVE_LOGS)), None)


def _is_task(process: psutil.Process) -> bool:
    # Has this title from its task's start on (sdk/execution_time/task_runner.py, startup).
    title = _title(process)
    with contextlib.suppress(ValueError):
        UUID(title.removeprefix(_TASK))
        return title.startswith(_TASK)
    return False


def _title(process: psutil.Process) -> str:
    return " ".join(process.cmdline()).strip()
