"""What travels between Airflow and a workload service: specifications, records and states of tasks and jobs.

PanDA's words throughout: a *task* (jediTaskID) has *jobs* (PandaID, attempts).
"""

from __future__ import annotations

import base64
import hashlib
import logging
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import Any, Final

log = logging.getLogger(__name__)

KEY_LENGTH: Final = 20
"""Length of a task key: iDDS's ``transforms.internal_id`` is a String(20) column (facts/idds.md section 10)."""


def instance_id(instance_secret: str) -> str:
    """Return the four characters that tell one Airflow instance's tasks from another's, derived from its secret."""
    return _letters(f"airflow-panda instance v1:{instance_secret}", 4)


def task_key(instance: str, task_instance_id: str) -> str:
    """Return the key of a task: ``af``, four characters of the instance, fourteen of the task instance's id.

    :param instance: four characters, see :func:`instance_id`.
    :param task_instance_id: the UUID of the task instance, new for each try; the same if one try is executed twice.
    """
    return f"af{instance}{_letters(task_instance_id, KEY_LENGTH - 2 - len(instance))}"


def _letters(text: str, length: int) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return base64.b32encode(digest).decode().lower()[:length]


class Phase(Enum):
    """What a PanDA task state means for whoever waits for the task."""

    WAITING = "waiting"
    """Known or about to be known, and nothing of it runs yet."""
    ACTIVE = "active"
    """Jobs run or are about to."""
    ENDING = "ending"
    """A command was taken, or the last jobs ended; the final state follows."""
    DONE = "done"
    """Every job succeeded."""
    PARTIAL = "partial"
    """Some jobs succeeded and some failed."""
    FAILED = "failed"
    """No job succeeded, or PanDA gave the task up."""
    KILLED = "killed"
    """The task was killed."""

    @property
    def terminal(self) -> bool:
        """Whether the task will not move any more by itself."""
        return self in (Phase.DONE, Phase.PARTIAL, Phase.FAILED, Phase.KILLED)


PHASES: Final[dict[str, Phase]] = {
    # DEFT and before brokerage (facts/panda.md section 5; JediTaskSpec of panda-server 1.0.4)
    "waiting": Phase.WAITING,
    "registered": Phase.WAITING,
    "defined": Phase.WAITING,
    "pending": Phase.WAITING,
    "assigning": Phase.WAITING,
    "staging": Phase.WAITING,
    "staged": Phase.WAITING,
    "topreprocess": Phase.WAITING,
    "preprocessing": Phase.WAITING,
    "rerefine": Phase.WAITING,
    "ready": Phase.WAITING,
    # jobs exist
    "scouting": Phase.ACTIVE,
    "scouted": Phase.ACTIVE,
    "running": Phase.ACTIVE,
    "throttled": Phase.ACTIVE,
    "paused": Phase.ACTIVE,
    "toretry": Phase.ACTIVE,
    "toincexec": Phase.ACTIVE,
    "toreassign": Phase.ACTIVE,
    # on the way to an end
    "prepared": Phase.ENDING,
    "passed": Phase.ENDING,
    "finishing": Phase.ENDING,
    "aborting": Phase.ENDING,
    "toabort": Phase.ENDING,
    "tobroken": Phase.ENDING,
    # ends
    "done": Phase.DONE,
    "finished": Phase.PARTIAL,
    "failed": Phase.FAILED,
    "broken": Phase.FAILED,
    "exhausted": Phase.FAILED,
    "aborted": Phase.KILLED,
}
"""Every state of a PanDA task."""

_warned: set[str] = set()


def phase_of(status: str) -> Phase:
    """Return what a PanDA task state means; an unknown one is "still running", with one warning a process."""
    phase = PHASES.get(status)
    if phase is None:
        if status not in _warned:
            _warned.add(status)
            log.warning("PanDA task state %r is unknown; taken as still running. Please report it.", status)
        return Phase.ACTIVE
    return phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a job of a task needs.

    :param queue: PanDA queue; None leaves the choice to brokerage.
    :param cloud: PanDA cloud.
    :param working_group: PanDA working group.
    :param core_count: cores of a job.
    :param memory_mb: memory of a job in MB, or None for the queue's default.
    :param walltime: time limit of a job.
    :param priority: PanDA priority (for plain users the server uses 1000 whatever is sent).
    :param max_attempt: attempts of a job in case of infrastructure faults.
    """

    queue: str | None = None
    cloud: str | None = None
    working_group: str | None = None
    core_count: int = 1
    memory_mb: int | None = None
    walltime: timedelta | None = None
    priority: int = 900
    max_attempt: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """One task to submit: ``n_jobs`` jobs that run the same command.

    :param key: task key (:func:`task_key`); also the end of the task's name.
    :param name: PanDA task name, unique; ends with the key.
    :param n_jobs: number of jobs, at least 1; job ``i`` has the job key ``j<i>``.
    :param command: shell line of a job; ``${IN/T}`` and ``${ATTEMPTNR}`` are replaced by PanDA.
    :param archive_name: name of the archive in the cache (``sources.<sha256>.tar.gz``).
    :param resources: what a job needs.
    :param container: image for PanDA's ``container_name``, or None.
    :param use_secrets: whether jobs get the owner's user secrets.
    :param processing_type: PanDA processingType, by which all tasks of this Airflow instance are listed at once.
    """

    key: str
    name: str
    n_jobs: int
    command: str
    archive_name: str
    resources: Resources = field(default_factory=Resources)
    container: str | None = None
    use_secrets: bool = True
    processing_type: str = "airflow"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStatus:
    """What PanDA says of a task.

    :param task_id: jediTaskID.
    :param name: taskName.
    :param status: PanDA's own word.
    :param phase: what it means.
    :param error: errorDialog as plain text (PanDA's holds HTML), or None.
    :param jobs_total: number of inputs, that is of jobs without their further attempts; None if not known yet.
    :param jobs_finished: how many of them succeeded.
    :param jobs_failed: how many of them failed for good.
    :param created: Unix time in seconds at which it was submitted, where PanDA tells.
    """

    task_id: int
    name: str
    status: str
    phase: Phase
    error: str | None = None
    jobs_total: int | None = None
    jobs_finished: int | None = None
    jobs_failed: int | None = None
    created: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """What PanDA keeps of one attempt of a job.

    :param panda_id: PandaID.
    :param job: index of the job in the call (from its input's name ``000000:j0``), or None if it cannot be told.
    :param attempt: attemptNr.
    :param status: job state, PanDA's own word.
    :param site: queue it ran on.
    :param host: worker node.
    :param exit_code: exit code of the payload, or None.
    :param diagnostics: error codes and texts in one line, or None.
    :param report: the text of ``jobReport.json`` decoded, for finished jobs that left one.
    """

    panda_id: int
    job: int | None
    attempt: int
    status: str
    site: str | None = None
    host: str | None = None
    exit_code: int | None = None
    diagnostics: str | None = None
    report: dict[str, Any] | None = None
