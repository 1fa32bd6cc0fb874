"""Ends the processes of payloads, those included that a killed grid left behind."""

from __future__ import annotations

import contextlib
import logging
import os
import signal

import psutil

from airflow_provider_panda.local.store import JobRow

log = logging.getLogger(__name__)


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
