"""Tasks as PanDA's calls return them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import md5
from typing import Any, Final

from airflow_provider_panda.local import machine
from airflow_provider_panda.local.describe.times import moment
from airflow_provider_panda.local.refine import Refined
from airflow_provider_panda.local.state import TASK_TERMINAL, TaskState
from airflow_provider_panda.local.store import TaskRow

_TASK_KEYS: Final = tuple(
    """
    jediTaskID taskName status userName creationDate modificationTime startTime endTime frozenTime
    prodSourceLabel workingGroup vo coreCount taskType processingType taskPriority currentPriority
    architecture transUses transHome transPath lockedBy lockedTime termCondition splitRule walltime
    walltimeUnit outDiskCount outDiskUnit workDiskCount workDiskUnit ramCount ramUnit ioIntensity
    ioIntensityUnit workQueue_ID progress failureRate errorDialog reqID oldStatus cloud site countryGroup
    parent_tid eventService ticketID ticketSystemType stateChangeTime superStatus campaign mergeRamCount
    mergeRamUnit mergeWalltime mergeWalltimeUnit throttledTime numThrottled mergeCoreCount goal
    assessmentTime cpuTime cpuTimeUnit cpuEfficiency baseWalltime nucleus baseRamCount ttcRequested
    ttcPredicted ttcPredictionDate rescueTime requestType gshare resource_type useJumbo diskIO diskIOUnit
    memory_leak_core memory_leak_x2 attemptNr container_name framework activatedTime queuedTime actionTime
    job_execution_params task_creation_arguments raw_task_params nFiles nFilesFinished nFilesFailed
    nFilesMissing pctFinished pctFailed
    """.split()  # noqa: SIM905 - a list of 130 literals reads worse
)

_TASK_CONSTANTS: Final[dict[str, Any]] = {
    **dict.fromkeys(_TASK_KEYS),
    "walltime": 0,
    "outDiskCount": 0,
    "workDiskCount": 0,
    "workQueue_ID": 3,
    "eventService": 0,
    "cpuEfficiency": 90,
    "baseWalltime": 600,
    "baseRamCount": 0,
    "gshare": "User",
    "resource_type": "Undefined",
    "attemptNr": 0,
    "nFilesMissing": 0,
}

TASK_ATTRIBUTES: Final = frozenset(_TASK_KEYS) - {"job_execution_params", "task_creation_arguments", "raw_task_params"}
"""Names that a filter of get_tasks_detailed_info_since may use."""

FILTER_COLUMNS: Final = {
    "jediTaskID": "task_id",
    "taskName": "name",
    "status": "state",
    "userName": "owner",
    "prodSourceLabel": "label",
    "workingGroup": "working_group",
    "vo": "vo",
    "taskType": "task_type",
    "processingType": "processing_type",
    "reqID": "req_id",
    "parent_tid": "parent_id",
    "cloud": "cloud",
    "taskPriority": "priority",
    "currentPriority": "priority",
}
"""Which of them are columns of the store; the others are compared with the finished dict."""


def super_status(state: TaskState) -> str:
    """Return DEFT's word for a state of JEDI's."""
    if state in TASK_TERMINAL:
        return state.value
    if state in (TaskState.REGISTERED, TaskState.DEFINED):
        return "registered"
    return "ready" if state in (TaskState.PENDING, TaskState.READY) else "running"


def task_dict(task: TaskRow, refined: Refined | None) -> dict[str, Any]:
    """Return a task as ``task/get_detailed_info`` has it, raw parameters included.

    :param refined: its refined parameters; None for a task that could not be refined.
    """
    params: Mapping[str, Any] = refined.params if refined else json.loads(task.params)
    architecture = params.get("architecture")
    described = dict(_TASK_CONSTANTS)
    described.update(
        jediTaskID=task.task_id,
        taskName=task.name,
        status=task.state.value,
        userName=task.owner,
        creationDate=moment(task.created),
        modificationTime=moment(task.modified),
        startTime=moment(task.started),
        endTime=moment(task.ended),
        prodSourceLabel=task.label,
        workingGroup=task.working_group,
        vo=task.vo,
        coreCount=params.get("coreCount", 1),
        taskType=task.task_type,
        processingType=task.processing_type,
        taskPriority=task.priority,
        currentPriority=task.priority,
        architecture=architecture or "{}",
        transUses=params.get("transUses"),
        transHome=params.get("transHome"),
        transPath=params.get("transPath"),
        lockedTime=moment(task.state_changed),
        splitRule=refined.split_rule if refined else None,
        ramCount=params.get("ramCount", 2000),
        ramUnit=params.get("ramUnit", "MBPerCore"),
        errorDialog=task.error_dialog,
        reqID=task.req_id,
        oldStatus=task.old_state,
        cloud=task.cloud,
        site=task.site or task.queue,
        parent_tid=task.parent_id,
        stateChangeTime=moment(task.state_changed),
        superStatus=super_status(task.state),
        requestType=md5(task.name.encode(), usedforsecurity=False).hexdigest(),
        container_name=params.get("container_name"),
        job_execution_params=refined.template if refined else None,
        raw_task_params=params,
        nFiles=task.n_inputs,
        nFilesFinished=task.n_finished,
        nFilesFailed=task.n_failed,
        pctFinished=machine.percent(task.n_finished, task.n_inputs),
        pctFailed=machine.percent(task.n_failed, task.n_inputs),
    )
    return described


def task_summary(task: TaskRow, statistics: str, params: Mapping[str, Any], *, full: bool) -> dict[str, Any]:
    """Return a task as ``task/get_tasks_modified_since`` has it."""
    summary = {
        "jediTaskID": task.task_id,
        "modificationTime": moment(task.modified),
        "status": task.state.value,
        "processingType": task.processing_type,
        "transUses": params.get("transUses"),
        "transHome": params.get("transHome"),
        "architecture": params.get("architecture") or "{}",
        "reqID": task.req_id,
        "creationDate": moment(task.created),
        "site": task.site or task.queue,
        "cloud": task.cloud,
        "taskName": task.name,
    }
    if full:
        summary.update(
            inDS="pseudo_dataset",
            outDS="",
            statistics=statistics,
            PandaID=[],
            mergeStatus=None,
            mergePandaID=[],
            cliParams=params.get("cliParams", ""),
        )
    return summary
