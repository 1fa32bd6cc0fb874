"""Calls of PanDA's module ``pilot``, for pilots other than the embedded one (facts/panda.md section 8)."""

from __future__ import annotations

import json
import time
from typing import Any

from airflow_provider_panda.local.api.registry import Answer, Call, Module
from airflow_provider_panda.local.describe.jobs import pilot_job
from airflow_provider_panda.local.jedi import AttemptReport
from airflow_provider_panda.local.state import JOB_WITH_PILOT, JobState
from airflow_provider_panda.local.store import JobRow, as_json

_module = Module("pilot")
CALLS = _module.calls

JOBS_LIMIT = 500
_REPORTED = ("running", "failed", "finished", "holding", "starting", "transferring", "sent")


@_module.call("POST")
def acquire_jobs(
    call: Call,
    site_name: str,
    timeout: int = 60,
    memory: int | None = None,
    disk_space: int | None = None,
    prod_source_label: str | None = None,
    node: str | None = None,
    computing_element: str | None = None,
    prod_user_id: str | None = None,
    get_proxy_key: bool | None = None,
    task_id: int | None = None,
    n_jobs: int = 1,
    background: bool | None = None,
    resource_type: str | None = None,
    harvester_id: str | None = None,
    worker_id: int | None = None,
    scheduler_id: str | None = None,
    job_type: str | None = None,
    via_topic: bool | None = None,
    remaining_time: int | None = None,
) -> Answer:
    """Hand out jobs of a queue; a plain user gets own jobs with label ``user`` only."""
    owner = None if call.user.pilot else call.user.name
    taken = call.grid.engine.attempts.take(
        f"outside:{node or call.user.name}",
        limit=max(1, min(n_jobs, JOBS_LIMIT)),
        now=time.time(),
        host=node or "",
        queue=site_name,
        owner=owner,
        task_id=task_id,
    )
    if not taken:
        return Answer(False, "No jobs in PanDA")
    store = call.grid.store
    jobs = []
    for job in taken:
        task = store.tasks.existing(job.task_id)
        params = json.loads(task.params)
        secrets = store.secrets.of(task.owner) if params.get("useSecrets") else None
        jobs.append(pilot_job(job, task, params, secrets))
    return Answer(True, "", {"StatusCode": 0, "jobs": jobs})


@_module.call("GET")
def get_job_status(call: Call, job_ids: list[int], timeout: int = 60) -> Answer:
    """Return state and attempt of each job."""
    found = []
    for panda_id in job_ids[:10_000]:
        job = call.grid.store.jobs.get(panda_id)
        found.append(
            {
                "job_id": panda_id,
                "status": job.state.value if job else "not found",
                "attempt_number": job.attempt if job else 0,
            }
        )
    return Answer(True, "", found)


@_module.call("POST", role="pilot")
def update_job(
    call: Call,
    job_id: int,
    job_status: str,
    job_sub_status: str | None = None,
    start_time: str | None = None,
    end_time: str | None = None,
    pilot_timing: str | None = None,
    site_name: str | None = None,
    node: str | None = None,
    scheduler_id: str | None = None,
    pilot_id: str | None = None,
    batch_id: str | None = None,
    trans_exit_code: int | None = None,
    pilot_error_code: int | None = None,
    pilot_error_diag: str | None = None,
    exe_error_code: int | None = None,
    exe_error_diag: str | None = None,
    n_events: int | None = None,
    n_input_files: int | None = None,
    attempt_nr: int | None = None,
    cpu_consumption_time: int | None = None,
    cpu_consumption_unit: str | None = None,
    cpu_conversion_factor: float | None = None,
    core_count: int | None = None,
    mean_core_count: int | None = None,
    max_rss: int | None = None,
    max_vmem: int | None = None,
    max_swap: int | None = None,
    max_pss: int | None = None,
    avg_rss: int | None = None,
    avg_vmem: int | None = None,
    avg_swap: int | None = None,
    avg_pss: int | None = None,
    tot_rchar: int | None = None,
    tot_wchar: int | None = None,
    tot_rbytes: int | None = None,
    tot_wbytes: int | None = None,
    rate_rchar: int | None = None,
    rate_wchar: int | None = None,
    rate_rbytes: int | None = None,
    rate_wbytes: int | None = None,
    corrupted_files: str | None = None,
    cpu_architecture_level: str | None = None,
    grid: str | None = None,
    source_site: str | None = None,
    destination_site: str | None = None,
    job_metrics: str | None = None,
    job_output_report: str | None = None,
    pilot_log: str | None = None,
    meta_data: str | None = None,
    stdout: str | None = None,
    timeout: int = 60,
) -> Answer:
    """Take a pilot's word about a job; the answer tells it to go on or to stop."""
    if job_status not in _REPORTED:
        return Answer(False, f"Invalid job status: {job_status}", {"StatusCode": 50})
    job = call.grid.store.jobs.get(job_id)
    if job is None or job.state not in JOB_WITH_PILOT or (attempt_nr is not None and attempt_nr != job.attempt):
        gone = job is None or job.state is not JobState.FINISHED
        return Answer(True, "", {"StatusCode": 0, "command": "tobekilled" if gone else "NULL"})
    engine, now = call.grid.engine, time.time()
    if job_sub_status is not None:
        call.grid.store.jobs.update(job_id, sub_state=job_sub_status[:80])
    match job_status:
        case "finished" | "failed" | "holding":
            reported = _reported_files(job_output_report)
            missing = _missing_output(job, reported) if job_status == "finished" else None
            if missing is not None:
                call.grid.store.jobs.update(job_id, ddm_error_code=200, ddm_error_diag=missing)
            elif reported:
                call.grid.store.jobs.update(job_id, files=as_json(_described(job, reported)))
            engine.attempts.ended(
                job,
                AttemptReport(
                    finished=job_status == "finished" and missing is None,
                    exit_code=trans_exit_code if trans_exit_code is not None else 0,
                    pilot_error=(pilot_error_code, (pilot_error_diag or "")[:500]) if pilot_error_code else None,
                    exe_error=(exe_error_code, (exe_error_diag or "")[:500]) if exe_error_code else None,
                    metadata=meta_data if meta_data is not None and len(meta_data) <= 1024 * 1024 else None,
                    cpu_seconds=cpu_consumption_time,
                ),
                now,
            )
        case "running" | "transferring":
            engine.attempts.running(job, now)
        case _:
            if job.state is not JobState.RUNNING:
                engine.attempts.starting(job, now)
    return Answer(True, "", {"StatusCode": 0, "command": job.command or "NULL"})


def _reported_files(report: str | None) -> dict[str, Any] | None:
    """Return a pilot's report of output files by LFN, or None if it cannot be read."""
    try:
        files: Any = json.loads(report) if report else {}
    except ValueError:
        return None
    return files if isinstance(files, dict) else None


def _missing_output(job: JobRow, reported: dict[str, Any] | None) -> str | None:
    """Return what is wrong with a pilot's report of output files, or None."""
    if reported is None:
        return "Could not get GUID/LFN/MD5/FSIZE/SURL from pilot JSON"
    for output in job.outputs:
        if output.lfn not in reported:
            return f"expected output {output.lfn} is missing in pilot JSON"
    return None


def _described(job: JobRow, reported: dict[str, Any]) -> list[list[Any]]:
    """Return a job's files with sizes and checksums as reported."""
    files: list[list[Any]] = []
    for output in job.outputs:
        said = reported.get(output.lfn)
        if not isinstance(said, dict):
            files.append([output.kind, output.lfn])
            continue
        kinds = (("ad", "adler32"), ("md5", "md5sum"))
        checksum = next((f"{short}:{said[name]}" for short, name in kinds if said.get(name)), None)
        size = said.get("fsize")
        size = int(str(size)) if str(size).isdigit() else 0
        guid = str(said["guid"]) if said.get("guid") else None
        files.append([output.kind, output.lfn, {"size": size, "checksum": checksum, "guid": guid}])
    return files
