"""The status messages of tasks and jobs that the grid sends to its broker (facts/panda.md section 6)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, Protocol

from airflow_provider_panda.local.state import JOB_ANNOUNCED, TASK_ANNOUNCED, JobState, TaskState
from airflow_provider_panda.local.store import JobRow

DESTINATION: Final = "/topic/panda_idds"


class Publisher(Protocol):
    """Whatever takes messages for a destination; must not block."""

    def publish(self, destination: str, body: str) -> None:
        """Send a message, or note that it cannot be sent."""


def task_notice(task_id: int, state: TaskState, now: float) -> str | None:
    """Return the message for a new state of a task, or None for states that are never announced."""
    if state not in TASK_ANNOUNCED:
        return None
    return json.dumps({"msg_type": "task_status", "taskid": task_id, "status": state.value, "timestamp": int(now)})


_ERRORS: Final = {
    "pilot": ("pilot_error_code", "pilot_error_diag"),
    "exe": ("exe_error_code", "exe_error_diag"),
    "sup": (None, None),
    "ddm": ("ddm_error_code", "ddm_error_diag"),
    "brokerage": (None, None),
    "jobdispatcher": ("dispatcher_error_code", "dispatcher_error_diag"),
    "taskbuffer": ("buffer_error_code", "buffer_error_diag"),
}


def job_notice(job: JobRow, state: JobState, inputs: Sequence[str], now: float) -> str | None:
    """Return the message for a new state of a job, or None for states that are never announced.

    :param inputs: LFNs of the job's inputs.
    """
    if state not in JOB_ANNOUNCED:
        return None
    body: dict[str, Any] = {"computingsite": job.queue}
    if state in (JobState.STARTING, JobState.RUNNING):
        body["inputs"] = None
    else:
        body["inputs"] = list(inputs)
        unset = state is JobState.PENDING
        for name, (code, _) in _ERRORS.items():
            body[f"{name}errorcode"] = "NULL" if unset else getattr(job, code) if code else 0
        for name, (_, diagnostics) in _ERRORS.items():
            body[f"{name}errordiag"] = (getattr(job, diagnostics) if diagnostics else None) or "NULL"
    if state in (JobState.FINISHED, JobState.FAILED):
        body.update(
            job_nevents=1,
            job_ninputfiles="NULL",
            job_noutputdatafiles=0,
            job_ninputdatafiles="NULL",
            job_inputfilebytes="NULL",
            job_outputfilebytes=0,
            job_hs06sec="NULL",
        )
    body.update(msg_type="job_status", jobid=job.panda_id, taskid=job.task_id, status=state.value, timestamp=int(now))
    return json.dumps(body)
