"""Questions of PanDA's module ``task``: the calls that change nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from airflow_provider_panda.local import machine
from airflow_provider_panda.local.api.registry import Answer, Call, Module
from airflow_provider_panda.local.describe.jobs import job_dict
from airflow_provider_panda.local.describe.tasks import FILTER_COLUMNS, TASK_ATTRIBUTES, task_dict, task_summary
from airflow_provider_panda.local.refine import BrokenTaskError, Refined
from airflow_provider_panda.local.state import InputState, JobState
from airflow_provider_panda.local.store import InputRow, TaskRow

_module = Module("task")
CALLS = _module.calls


def _known(call: Call, task_id: int) -> TaskRow | None:
    task = call.grid.store.tasks.get(task_id)
    return task if task is not None and task.known else None


def _refined(call: Call, task: TaskRow) -> Refined | None:
    try:
        return call.grid.engine.parameters.refined(task)
    except BrokenTaskError:
        return None


@_module.call("GET")
def get_status(call: Call, task_id: Any) -> Answer:
    """Return the state of a task. Its argument has no type in the real one, hence another error than elsewhere."""
    try:
        task = _known(call, int(task_id))
    except ValueError:
        return Answer(False, "jediTaskID must be an integer")
    return Answer(True, "", task.state.value) if task else Answer(False, "Task not found")


@_module.call("GET")
def get_details(call: Call, task_id: int, include_parameters: bool = False, include_status: bool = False) -> Answer:
    """Return datasets, statistics of inputs and last attempts of a task."""
    task = _known(call, task_id)
    if task is None:
        return Answer(False, "Task not found or error retrieving the details")
    store = call.grid.store
    datasets = store.datasets.of(task_id)
    details: dict[str, Any] = {
        "inDS": "",
        "outDS": ",".join(sorted({name for _, name, kind in datasets if kind in ("output", "log")})),
        "statistics": machine.statistics(store.inputs.counts(task_id)),
        "PandaID": store.inputs.last_attempts(task_id),
        "mergeStatus": None,
        "mergePandaID": [],
    }
    if include_status:
        details["status"] = task.state.value
    if include_parameters:
        details["cliParams"] = json.loads(task.params).get("cliParams", "")
    return Answer(True, "", details)


@_module.call("GET")
def get_detailed_info(call: Call, task_id: int) -> Answer:
    """Return every column of a task."""
    task = _known(call, task_id)
    if task is None:
        return Answer(False, "Task not found or error retrieving task info")
    return Answer(True, "", task_dict(task, _refined(call, task)))


@_module.call("GET")
def get_parent_detailed_info(call: Call, task_id: int) -> Answer:
    """Return every column of the task that another was submitted as a child of."""
    task = _known(call, task_id)
    parent = None if task is None or task.parent_id is None else _known(call, task.parent_id)
    if task is None or parent is None or parent.task_id == task.task_id:
        return Answer(False, "Task not found or error retrieving task info")
    return Answer(True, "", task_dict(parent, _refined(call, parent)))


@_module.call("GET")
def get_task_parameters(call: Call, task_id: int) -> Answer:
    """Return the parameter map as the server keeps it; the one question that is answered before refinement."""
    task = call.grid.store.tasks.get(task_id)
    if task is None:
        return Answer(False, "Task not found")
    return Answer(True, "", json.loads(task.params))


@_module.call("GET")
def get_job_ids(call: Call, task_id: int) -> Answer:
    """Return the PandaIDs of all attempts of a task."""
    return Answer(True, "", call.grid.store.jobs.ids_of(task_id))


@_module.call("GET")
def get_job_descriptions(call: Call, task_id: int, unsuccessful_only: bool = False) -> Answer:
    """Return the descriptions of all attempts of a task, or of those that did not succeed."""
    store = call.grid.store
    task = _known(call, task_id)
    if task is None:
        return Answer(True, "", [])
    failed = [JobState.FAILED, JobState.CANCELLED]
    jobs = store.jobs.of(task_id, failed if unsuccessful_only else None)
    inputs: dict[int, list[Any]] = {}
    for row in store.inputs.of(task_id):
        inputs.setdefault(row.chunk, []).append(row)
    params = json.loads(task.params)
    datasets = {name: i for i, name, _ in store.datasets.of(task_id)}
    return Answer(
        True,
        "",
        lambda: [job_dict(job, task, params, inputs.get(job.chunk, []), datasets, extended=True) for job in jobs],
    )


def _file_status(row: InputRow) -> str:
    """Return an input's status as JEDI has it: one that failed for good is ready, with no attempt left."""
    return InputState.READY.value if row.state is InputState.FAILED else row.state.value


@_module.call("GET")
def get_datasets_and_files(call: Call, task_id: int, dataset_types: list[str] | None = None) -> Answer:
    """Return the datasets of a task with their files."""
    store = call.grid.store
    kinds = dataset_types or ["input", "pseudo_input"]
    found = []
    for dataset_id, name, kind in store.datasets.of(task_id):
        if kind not in kinds:
            continue
        if kind == "pseudo_input":
            files = [
                {"lfn": i.lfn, "scope": None, "id": i.id, "status": _file_status(i)} for i in store.inputs.of(task_id)
            ]
        else:
            files = [
                {"lfn": out.lfn, "scope": ".".join(name.split(".")[:2]), "id": job.panda_id, "status": "finished"}
                for job in store.jobs.of(task_id, [JobState.FINISHED])
                for out in job.outputs
                if out.kind == kind
            ]
        found.append({"dataset": {"name": name, "id": dataset_id}, "files": files})
    if not found:
        return Answer(False, "No data found for the task")
    return Answer(True, "", found)


def _moment(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp()


@_module.call("GET")
def get_tasks_detailed_info_since(
    call: Call, since: str | None = None, filters: str | None = None, n_tasks: int = 500
) -> Answer:
    """Return every column of the caller's tasks that match all filters (equality, on JediTaskSpec attributes).

    :param since: earliest modification, ``YYYY-MM-DD HH:MM:SS`` UTC; without it tasks of any age.
    :param filters: JSON object.
    """
    try:
        wanted = json.loads(filters) if filters else {}
        earliest = _moment(since) if since else None
        unknown = set(wanted) - TASK_ATTRIBUTES
    except (ValueError, TypeError) as error:
        return Answer(False, f"invalid argument: {error}")
    if unknown:
        return Answer(False, f"unknown attribute: {', '.join(sorted(unknown))}")
    columns = {
        FILTER_COLUMNS[key]: str(value)
        for key, value in wanted.items()
        if key in FILTER_COLUMNS and "|" not in str(value)
    }
    if not call.user.production:
        columns["owner"] = call.user.name
    rows = call.grid.store.tasks.select(equal=columns, since=earliest, limit=max(0, min(n_tasks, 10_000)))
    tasks = [(row, _refined(call, row)) for row in rows]

    def describe() -> list[dict[str, Any]]:
        dicts = [task_dict(row, refined) for row, refined in tasks]
        return [d for d in dicts if all(str(d[key]) in str(value).split("|") for key, value in wanted.items())]

    return Answer(True, "", describe)


@_module.call("GET")
def get_tasks_modified_since(
    call: Call,
    since: str,
    dn: str | None = None,
    full: bool = False,
    min_task_id: int | None = None,
    prod_source_label: str = "user",
) -> Answer:
    """Return a summary of the caller's tasks that were modified since a time, by reqID."""
    try:
        earliest = _moment(since)
    except ValueError as error:
        return Answer(False, f"invalid argument: {error}")
    equal: dict[str, Any] = {"owner": dn or call.user.name, "label": prod_source_label}
    store = call.grid.store
    rows = store.tasks.select(equal=equal, since=earliest, above=min_task_id, limit=500 if full else 10_000)
    found = {}
    for row in rows:
        statistics = ",".join(f"{state}*{n}" for state, n in sorted(store.inputs.counts(row.task_id))) if full else ""
        found[str(row.req_id)] = task_summary(row, statistics, json.loads(row.params), full=full)
    return Answer(True, "", found)
