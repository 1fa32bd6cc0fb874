"""PanDA's status messages: what they say, read without trusting them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class StatusMessage:
    """A status message of PanDA (samples/panda/broker_messages.json). It is not signed: a hint to look, no proof.

    :param task_id: jediTaskID.
    :param job_id: PandaID, or None for the status of the task itself.
    :param status: PanDA's own word.
    :param timestamp: Unix time in seconds, or None.
    """

    task_id: int
    job_id: int | None
    status: str
    timestamp: float | None


def read_status(body: bytes) -> StatusMessage | None:
    """Return a status message of PanDA, or None if the body is none."""
    try:
        content: Any = json.loads(body.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    task_id, job_id, status = content.get("taskid"), content.get("jobid"), content.get("status")
    kind, timestamp = content.get("msg_type"), content.get("timestamp")
    if type(task_id) is not int or not isinstance(status, str) or kind not in ("task_status", "job_status"):
        return None
    if kind == "job_status" and type(job_id) is not int:
        return None
    return StatusMessage(
        task_id=task_id,
        job_id=job_id if kind == "job_status" else None,
        status=status[:64],
        timestamp=float(timestamp) if isinstance(timestamp, int | float) and abs(timestamp) < 1e12 else None,
    )
