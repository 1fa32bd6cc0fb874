"""Calls of PanDA's module ``task``."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

from airflow_provider_panda.local import machine
from airflow_provider_panda.local.api.registry import Answer, Call, Module
from airflow_provider_panda.local.describe.jobs import job_dict
from airflow_provider_panda.local.describe.tasks import FILTER_COLUMNS, TASK_ATTRIBUTES, task_dict, task_summary
from airflow_provider_panda.local.refine import BrokenTaskError, Refined
from airflow_provider_panda.local.state import TASK_TERMINAL, Command, JobState, TaskState
from airflow_provider_panda.local.store import TaskRow, as_json

_module = Module("task")
CALLS = _module.calls

NOT_OWNER = "not the task owner or no production role"
NEEDED_TO_SUBMIT = ("taskName", "vo", "prodSourceLabel")
PARAMETERS_LIMIT = 64 * 1024 * 1024


# --- submission ---------------------------------------------------------------------------------------------


@_module.call("POST")
def submit(call: Call, task_parameters: dict[str, Any], parent_tid: int | None = None) -> Answer:
    """Take a task; it is known to other calls only after a while (the registration gap)."""
    params = dict(task_parameters)
    if not call.user.production:
        params.update(userName=call.user.name, taskType="anal", taskPriority=1000)
    if any(key not in params for key in NEEDED_TO_SUBMIT) or not isinstance(params["taskName"], str):
        return Answer(False, "failed to register task", 4)
    store, engine, now = call.grid.store, call.grid.engine, time.time()
    if parent_tid is not None and store.tasks.get(parent_tid) is None:
        return Answer(False, f"failed to submit task. parent task with jediTaskID={parent_tid} not found", 11)
    name = params["taskName"]
    if params.get("uniqueTaskName"):
        old = store.tasks.by_name(name, str(params.get("userName")))
        if old is not None:
            return _resubmit(call, old, params, now)
    columns = {
        "name": name,
        "owner": str(params.get("userName") or call.user.name),
        "nickname": call.user.nickname,
        "vo": params.get("vo"),
        "label": params.get("prodSourceLabel"),
        "processing_type": params.get("processingType"),
        "working_group": params.get("workingGroup"),
        "cloud": params.get("cloud") or params.get("workingGroup"),
        "site": params.get("site"),
        "task_type": params.get("taskType"),
    }
    integers = {"req_id": params.get("reqID"), "priority": params.get("taskPriority")}
    if any(v is not None and not isinstance(v, str) for v in columns.values()) or any(
        v is not None and (not isinstance(v, int) or abs(v) >= 2**63) for v in integers.values()
    ):
        return Answer(False, "failed to register task", 4)
    task_id = store.tasks.insert(
        **columns,
        req_id=integers["req_id"],
        priority=1000 if integers["priority"] is None else integers["priority"],
        parent_id=parent_tid,
        state=TaskState.WAITING,
        params=as_json(params),
        created=now,
        modified=now,
        state_changed=now,
        due=now + call.grid.options.register_delay,
    )
    store.commit()
    engine.wake()
    return Answer(True, f"succeeded. new jediTaskID={task_id}", task_id)


def _resubmit(call: Call, old: TaskRow, params: dict[str, Any], now: float) -> Answer:
    """Answer a submission under a unique name that was used before."""
    if not old.known:
        return Answer(
            False,
            f"jediTaskID={old.task_id} is already queued for outDS={old.name}. You cannot submit duplicated tasks. ",
            1,
        )
    if old.state not in TASK_TERMINAL or old.state is TaskState.BROKEN:
        return Answer(
            False,
            f"jediTaskID={old.task_id} is in the {old.state} state for outDS={old.name}. You can re-submit the task"
            " with new parameters for the same or another input once it goes into finished/failed/done. Or you can"
            " retry the task once it goes into running/finished/failed/done. Note that retry != resubmission"
            " according to https://twiki.cern.ch/twiki/bin/view/PanDA/PandaJEDI#Task_retry_and_resubmission ",
            2,
        )
    engine = call.grid.engine
    engine.parameters.forget(old.task_id)
    call.grid.store.tasks.update(old.task_id, params=as_json(params))
    engine.ledger.move_task(old, TaskState.REREFINE, now, due=now + call.grid.options.register_delay, ended=None)
    engine.ledger.flush()
    engine.wake()
    return Answer(
        False,
        f"reactivation accepted. jediTaskID={old.task_id} (currently in {old.state} state) will be re-executed"
        " with old and/or new input",
        3,
    )


# --- commands -----------------------------------------------------------------------------------------------


def _owned(call: Call, task_id: int) -> TaskRow | Answer:
    task = call.grid.store.tasks.get(task_id)
    known = task is not None and task.known
    if call.user.production:
        if not known:
            return Answer(False, f"jediTaskID={task_id} not found", 2)
    elif not known or task is None or task.owner != call.user.name:
        return Answer(False, NOT_OWNER)
    assert task is not None
    return task


def _command(call: Call, task_id: int, command: Command, *, soft: bool = False) -> Answer:
    task = _owned(call, task_id)
    if isinstance(task, Answer):
        return task
    if not machine.accepts(command, task.state):
        return Answer(False, machine.rejection(command, task.state), 4)
    call.grid.engine.commands.take(task, command, by=call.user.name, now=time.time(), soft=soft)
    call.grid.engine.ledger.flush()
    return Answer(True, machine.registration(command, task_id), 0)


@_module.call("POST")
def kill(call: Call, task_id: int, broadcast: bool = False) -> Answer:
    """Kill a task and its jobs."""
    return _command(call, task_id, Command.KILL)


@_module.call("POST")
def finish(call: Call, task_id: int, soft: bool = False, broadcast: bool = False) -> Answer:
    """End a task with what it has; soft waits for running jobs."""
    return _command(call, task_id, Command.FINISH, soft=soft)


@_module.call("POST", role="production")
def pause(call: Call, task_id: int) -> Answer:
    """Hold a task."""
    return _command(call, task_id, Command.PAUSE)


@_module.call("POST", role="production")
def resume(call: Call, task_id: int) -> Answer:
    """Let a held task go on."""
    return _command(call, task_id, Command.RESUME)


@_module.call("POST")
def retry(
    call: Call,
    task_id: int,
    new_parameters: dict[str, Any] | None = None,
    no_child_retry: bool | None = None,
    discard_events: bool | None = None,
    disable_staging_mode: bool | None = None,
    keep_gshare_priority: bool | None = None,
    ignore_hard_exhausted: bool | None = None,
) -> Answer:
    """Try what failed in a task again. Of a known task, success is always true: the data says how it went."""
    task = _owned(call, task_id)
    if isinstance(task, Answer):
        return task
    engine, now = call.grid.engine, time.time()
    if task.state is TaskState.RUNNING:
        engine.commands.retry_running(task, now)
        engine.ledger.flush()
        return Answer(True, "retry has been triggered for failed jobs while the task is still running", 0)
    if not machine.accepts(Command.RETRY, task.state):
        return Answer(True, machine.rejection(Command.RETRY, task.state), 4)
    if new_parameters:
        call.grid.store.tasks.update(task_id, params=as_json({**json.loads(task.params), **new_parameters}))
        engine.parameters.forget(task_id)
    engine.commands.take(task, Command.RETRY, by=call.user.name, now=now)
    engine.ledger.flush()
    return Answer(True, machine.registration(Command.RETRY, task_id), 0)


@_module.call("POST")
def increase_attempts(call: Call, task_id: int, increase: int) -> Answer:
    """Give the unfinished inputs of a task more attempts."""
    task = _owned(call, task_id)
    if isinstance(task, Answer):
        return task
    if not 1 <= increase <= 100:
        return Answer(False, "wrong parameter", 4)
    call.grid.store.inputs.add_attempts(task_id, increase)
    call.grid.store.commit()
    return Answer(True, "", 0)


# --- questions ----------------------------------------------------------------------------------------------


def _known(call: Call, task_id: int) -> TaskRow | None:
    task = call.grid.store.tasks.get(task_id)
    return task if task is not None and task.known else None


def _refined(call: Call, task: TaskRow) -> Refined | None:
    try:
        return call.grid.engine.parameters.refined(task)
    except BrokenTaskError:
        return None


@_module.call("GET")
def get_status(call: Call, task_id: int) -> Answer:
    """Return the state of a task."""
    task = _known(call, task_id)
    return Answer(True, "", task.state.value) if task else Answer(False, "Task not found")


@_module.call("GET")
def get_details(call: Call, task_id: int, include_parameters: bool = False, include_status: bool = False) -> Answer:
    """Return datasets, statistics of inputs and last attempts of a task."""
    task = _known(call, task_id)
    if task is None:
        return Answer(False, "Task not found or error retrieving task details")
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
                {"lfn": i.lfn, "scope": None, "id": i.id, "status": i.state.value} for i in store.inputs.of(task_id)
            ]
        else:
            files = [
                {"lfn": lfn, "scope": ".".join(name.split(".")[:2]), "id": job.panda_id, "status": "finished"}
                for job in store.jobs.of(task_id, [JobState.FINISHED])
                for file_kind, lfn in json.loads(job.files)
                if file_kind == kind
            ]
        found.append({"dataset": {"name": name, "id": dataset_id}, "files": files})
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
    prod_source_label: str | None = None,
) -> Answer:
    """Return a summary of the caller's tasks that were modified since a time, by jediTaskID."""
    try:
        earliest = _moment(since)
    except ValueError as error:
        return Answer(False, f"invalid argument: {error}")
    equal: dict[str, Any] = {"owner": dn or call.user.name}
    if prod_source_label:
        equal["label"] = prod_source_label
    store = call.grid.store
    rows = store.tasks.select(equal=equal, since=earliest, above=min_task_id, limit=10_000)
    found = {
        str(row.task_id): task_summary(
            row, machine.statistics(store.inputs.counts(row.task_id)) if full else "", json.loads(row.params), full=full
        )
        for row in rows
    }
    return Answer(True, "", found)
