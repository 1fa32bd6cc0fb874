"""Calls of PanDA's module ``job``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from airflow_provider_panda.local.api.registry import Answer, Call, Module
from airflow_provider_panda.local.describe.jobs import job_dict
from airflow_provider_panda.local.state import JOB_QUEUED, JOB_WITH_PILOT

_module = Module("job")
CALLS = _module.calls

IDS_LIMIT = 10_000


@_module.call("GET")
def get_status(call: Call, job_ids: list[int], timeout: int = 60) -> Answer:
    """Return state and pending command of each job."""
    found = []
    for panda_id in job_ids[:IDS_LIMIT]:
        job = call.grid.store.jobs.get(panda_id)
        found.append(
            {"command": job.command, "status": job.state.value} if job else {"command": None, "status": "unknown"}
        )
    return Answer(True, "", found)


def _descriptions(call: Call, job_ids: list[int]) -> Callable[[], list[Any]]:
    store = call.grid.store
    rows: list[Any] = []
    tasks: dict[int, Any] = {}
    for panda_id in job_ids[:IDS_LIMIT]:
        job = store.jobs.get(panda_id)
        if job is None:
            rows.append(None)
            continue
        if job.task_id not in tasks:
            task = store.tasks.existing(job.task_id)
            datasets = {name: i for i, name, _ in store.datasets.of(job.task_id)}
            tasks[job.task_id] = (task, json.loads(task.params), datasets)
        rows.append((job, store.inputs.of(job.task_id, job.chunk), *tasks[job.task_id]))
    return lambda: [
        job_dict(row[0], row[2], row[3], row[1], row[4], extended=False) if row is not None else None for row in rows
    ]


@_module.call(None)
def get_description(call: Call, job_ids: list[int], timeout: int = 60) -> Answer:
    """Return the description of each job, null for an unknown one."""
    return Answer(True, "", _descriptions(call, job_ids))


@_module.call(None)
def get_description_incl_archive(call: Call, job_ids: list[int], timeout: int = 60) -> Answer:
    """Return the description of each job; here there is no archive apart."""
    return Answer(True, "", _descriptions(call, job_ids))


@_module.call("GET")
def get_metadata_for_analysis_jobs(call: Call, task_id: int) -> Answer:
    """Return the reports of the finished jobs of a task with label ``user``."""
    task = call.grid.store.tasks.get(task_id)
    rows = call.grid.store.jobs.metadata_of(task_id) if task is not None and task.label == "user" else []
    reports: dict[str, Any] = {}
    for panda_id, text in rows:
        try:
            reports[str(panda_id)] = json.loads(text)
        except ValueError:
            continue
    return Answer(True, "" if reports else "No metadata found", reports)


@_module.call("POST")
def kill(
    call: Call,
    job_ids: list[int],
    code: int | None = None,
    use_email_as_id: bool = False,
    kill_options: list[str] | None = None,
) -> Answer:
    """Kill jobs of the caller; says for each whether it was done."""
    return Answer(True, "", kill_jobs(call, job_ids[:IDS_LIMIT]))


def kill_jobs(call: Call, job_ids: list[int]) -> list[bool]:
    """Kill jobs as far as the caller may, and return for each whether that was so."""
    engine, store, now = call.grid.engine, call.grid.store, time.time()
    done = []
    for panda_id in job_ids:
        job = store.jobs.get(panda_id)
        task = store.tasks.get(job.task_id) if job else None
        allowed = task is not None and (call.user.production or task.owner == call.user.name)
        if job is None or not allowed:
            done.append(False)
            continue
        if job.state in JOB_QUEUED:
            engine.attempts.cancel(job, f"kill by {call.user.name}", now)
        elif job.state in JOB_WITH_PILOT:
            engine.attempts.tell_to_stop(job, f"kill by {call.user.name}", now)
        done.append(True)
    engine.ledger.flush()
    engine.wake()
    return done


@_module.call("POST")
def set_debug_mode(call: Call, job_id: int, mode: bool) -> Answer:
    """Accept debug mode: payload logs are always at hand here, so nothing changes."""
    job = call.grid.store.jobs.get(job_id)
    if job is None:
        return Answer(False, f"PandaID={job_id} not found")
    return Answer(True, "Succeeded")
