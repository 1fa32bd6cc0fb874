"""What became of PanDA tasks, as an operator or a sensor returns it or raises it."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_panda.exceptions import (
    DeadlineExceededError,
    GridError,
    GridTaskError,
    GridTaskFailedError,
)
from airflow_provider_panda.grid.outcome import GONE
from airflow_provider_panda.grid.task import JobRecord, TaskStatus
from airflow_provider_panda.triggers.event import Outcome
from airflow_provider_panda.triggers.task import TasksEvent

if TYPE_CHECKING:
    from airflow_provider_panda.grid.panda import PandaGrid

log = logging.getLogger(__name__)

JOBS_LOOKED_AT: Final = 50
"""Newest jobs of a failed task among which reasons are looked for."""

REASONS_TOLD: Final = 3
"""Failed jobs whose reasons go to the log."""


def task_value(task: TaskStatus, grid: PandaGrid, *, planned: Sequence[str] = ()) -> dict[str, Any]:
    """Return what a task came to, as plain JSON.

    :param task: its last status.
    :param grid: where its output datasets are asked for.
    :param planned: names of them to return where PanDA cannot be asked: the task has succeeded, after all.
    """
    try:
        outputs = grid.output_datasets(task.task_id)
    except GridError as error:
        log.warning("PanDA does not tell the output datasets of task %d, %s. Taken as submitted", task.task_id, error)
        outputs = list(planned)
    return {
        "task_id": task.task_id,
        "name": task.name,
        "state": task.status,
        "files": {"total": task.jobs_total, "finished": task.jobs_finished, "failed": task.jobs_failed},
        "outputs": outputs,
    }


def tasks_error(came: TasksEvent, *, accepted: Collection[str], grid: PandaGrid, key: str) -> GridTaskError:
    """Return the error that tells why a wait for tasks ended without success.

    :param came: what the trigger told.
    :param accepted: states that would have been a success.
    :param grid: where the reasons of failed jobs are asked for.
    :param key: task key, for the log.
    """
    told = " or ".join(sorted(accepted))
    if came.unknown and came.outcome is Outcome.FAILED:
        ids = ", ".join(map(str, came.unknown))
        return GridTaskFailedError(
            f"PanDA does not know task {ids}. Check the id and the connection's server",
            task_key=key,
            task_id=came.unknown[0],
        )
    failed = came.failed(accepted)
    if came.outcome is Outcome.DEADLINE or not failed:
        waiting = [f"{task.task_id} is {task.status!r}" for task in came.tasks if task.status not in accepted]
        waiting += [f"{task_id} was not shown" for task_id in came.unknown]
        return DeadlineExceededError(
            f"{key}: not {told} before its deadline: PanDA task {'; '.join(waiting)}",
            task_key=key,
            task_id=next((task.task_id for task in came.tasks), None),
        )
    first = failed[0]
    reasons = failure_reasons(first, grid, key)
    said = [f": {first.error}" if first.error else "", f". Last failed job: {reasons[0]}" if reasons else ""]
    others = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    return GridTaskFailedError(
        f"{key}: PanDA task {first.task_id}{others} ended as {first.status!r}, not {told}{''.join(said)}. "
        f"{first.jobs_finished or 0} of {first.jobs_total or 0} finished, {first.jobs_failed or 0} failed. "
        f"See it with pbook, show({first.task_id}), or on the PanDA monitor",
        task_key=key,
        task_id=first.task_id,
    )


def failure_reasons(task: TaskStatus, grid: PandaGrid, key: str) -> list[str]:
    """Return why the newest failed jobs failed, and log it."""
    try:
        ids = grid.job_ids(task.task_id)[-JOBS_LOOKED_AT:]
        records = grid.jobs(task.task_id, ids) if ids else []
    except GridError as error:
        log.warning("%s: PanDA could not be asked why jobs of task %d failed: %s", key, task.task_id, error)
        return []
    gone = [record for record in reversed(records) if record.status in GONE]
    reasons = [_reason(record) for record in gone[:REASONS_TOLD]]
    for reason in reasons:
        log.error("%s: %s", key, reason)
    return reasons


def _reason(record: JobRecord) -> str:
    where = f"PandaID {record.panda_id}, attempt {record.attempt}, site {record.site}, host {record.host}"
    return f"{where}: {record.status}, {record.diagnostics or 'without a reason given'}"
