"""The workflow of a DAG run and the work of a task in the form that iDDS stores: plain JSON, written by hand.

iDDS rebuilds objects from ``{"class", "module", "attributes"}`` (idds 2.6.21, idds.common.dict_class; captured in
samples/idds). Its own classes would put this process's environment, tokens included, into them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from airflow_provider_panda.grid.task import TaskSpec

SPOKEN: Final = "2.6.21"
"""Version of iDDS whose objects these are."""

LIFETIME: Final = 7 * 24 * 3600
"""Lifetime that iDDS's own client gives to a request. The client means seconds and the server takes days: no limit."""

RUN_WALLTIME: Final = 30 * 24 * 3600
"""Seconds after which iDDS itself ends a request whose works have all ended, should nobody have closed it."""

DEFAULT_MEMORY_MB: Final = 1000
"""Memory of a job where nothing is said: iDDS divides by it, so there must be a number."""

_ATTEMPT: Final = "${ATTEMPTNR}"
"""Replaced by PanDA in a job's parameters; travels as the work's job key, the one word of them that is ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What the works of one connection share.

    :param panda_url: base URL of the PanDA server.
    :param cache_url: base URL of its cache, as worker nodes reach it.
    :param vo: virtual organisation; a role after a dot or colon is dropped.
    :param user_name: owner of the PanDA tasks, as PanDA writes the name: who may kill them. None leaves it to iDDS.
    """

    panda_url: str
    cache_url: str
    vo: str
    user_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """The iDDS request of one DAG run.

    :param name: its name, see :mod:`~airflow_provider_panda.grid.names`.
    :param token: what works show to be added to it; never in ``repr``.
    """

    name: str
    token: str = field(repr=False)


def request_properties(run: RunRequest, site: Site) -> dict[str, Any]:
    """Return the attributes of a DAG run's request (POST /request)."""
    workflow = _object(
        "idds.iworkflow.workflow",
        "Workflow",
        {
            "_internal_id": run.token[:8],
            "_template_id": run.token[:8],
            "_sequence_id": 0,
            "_name": run.name,
            "_func": None,
            "_func_name_and_args": [None, {}, [], {}],
            "_current_job_kwargs": None,
            "_multi_jobs_kwargs_list": [],
            "_context": _workflow_context(run, site),
            "prepared": True,
        },
    )
    return {
        "campaign": None,
        "campaign_scope": None,
        "campaign_group": None,
        "campaign_tag": None,
        "max_processing_requests": -1,
        "scope": "iworkflowLocal",
        "name": run.name,
        "requester": "panda",
        "request_type": _enum("RequestType", "iWorkflowLocal", 7),
        "username": None,
        "userdn": None,
        "transform_tag": "iWorkflowLocal",
        "status": _enum("RequestStatus", "New", 0),
        "priority": 0,
        "site": None,
        "lifetime": LIFETIME,
        "workload_id": None,
        "request_metadata": {"version": SPOKEN, "workload_id": None, "workflow": workflow},
    }


def transform_properties(spec: TaskSpec, run: RunRequest, request_id: int, site: Site) -> dict[str, Any]:
    """Return the attributes of a task's transform (POST /transform/{request_id}).

    :param spec: the task; its command is what runs in place of iDDS's own runner (``init_env``).
    :param run: the request that it belongs to.
    :param request_id: id of that request.
    :param site: what the works of the connection share.
    """
    resources = spec.resources
    workflow_context = _workflow_context(
        run,
        site,
        request_id=request_id,
        archive=spec.archive_name,
        cloud=resources.cloud,
        working_group=resources.working_group,
        processing_type=spec.processing_type,
    )
    context = _object(
        "idds.iworkflow.work",
        "WorkContext",
        {
            # What a transform is found by, and what its messages are stored under.
            "_internal_id": spec.key,
            "_name": spec.name,
            "_workflow_context": workflow_context,
            "_workflow_type": _enum("WorkflowType", "iWork", 2),
            "_transform_id": None,
            "_processing_id": None,
            "_workload_id": None,
            "_parent_workload_id": None,
            "_no_wait_parent": False,
            "_site": None,
            "_queue": resources.queue,
            "_priority": resources.priority,
            "_core_count": resources.core_count,
            "_total_memory": resources.memory_mb or DEFAULT_MEMORY_MB,
            "_max_walltime": 0 if resources.walltime is None else round(resources.walltime.total_seconds()),
            "_max_attempt": resources.max_attempt,
            "_map_results": False,
            "_init_env": f"{spec.command} ",
            "_container_options": {"container_image": spec.container} if spec.container else None,
            "_post_script": None,
            "_start_time": None,
            "_end_time": None,
            "_other_attributes": {"job_key": _ATTEMPT},
        },
    )
    work = _object(
        "idds.iworkflow.work",
        "Work",
        {
            "_internal_id": spec.key,
            "_template_id": spec.key,
            "_sequence_id": 0,
            "_name": spec.name,
            "_func": None,
            "_func_name_and_args": ["airflow_provider_panda", {}, [], {}],
            "_current_job_kwargs": None,
            "_multi_jobs_kwargs_list": [f"j{index}" for index in range(spec.n_jobs)],
            "_context": context,
            "_async_ret": None,
            "_async_result_initialized": False,
            "_async_result_status": None,
            "_results": None,
            "inputs": None,
            "input_map": None,
            "inputs_group": None,
            "num_checks": 0,
            "prepared": False,
        },
    )
    return {
        "workload_id": None,
        "transform_type": _enum("TransformType", "iWork", 10),
        "transform_tag": "iWork",
        "priority": resources.priority,
        "retries": 0,
        "internal_id": spec.key,
        "parent_internal_id": None,
        "parent_transform_id": None,
        "previous_transform_id": None,
        "name": spec.name,
        "token": run.token,
        "status": _enum("TransformStatus", "New", 0),
        "transform_metadata": {"version": SPOKEN, "work": work},
    }


def _workflow_context(
    run: RunRequest,
    site: Site,
    *,
    request_id: int | None = None,
    archive: str | None = None,
    cloud: str | None = None,
    working_group: str | None = None,
    processing_type: str | None = None,
) -> dict[str, Any]:
    """Return a copy of the run's context; each work has one of its own, so that each has an archive of its own."""
    return _object(
        "idds.iworkflow.workflow",
        "WorkflowContext",
        {
            "_internal_id": run.token[:8],
            "_service": "panda",
            "_name": run.name,
            "_request_id": request_id,
            "_workload_id": None,
            "_workflow_type": _enum("WorkflowType", "iWorkflowLocal", 3),
            "_token": run.token,
            # How iDDS's wrapper on the worker node finds the cache; no credentials.
            "_panda_env": {
                "PANDA_URL": f"{site.panda_url}/server/panda",
                "PANDA_URL_SSL": f"{site.panda_url}/server/panda",
                "PANDACACHE_URL": f"{site.cache_url}/server/panda",
            },
            "_panda_initialized": True,
            "_idds_env": {},
            "_idds_initialized": True,
            "remote_source_file": f"{site.cache_url}/cache/{archive}" if archive else None,
            "_source_dir": None,
            "_exclude_source_files": [],
            "_vo": site.vo.replace(":", ".").partition(".")[0] or None,
            "_queue": None,
            "_site": None,
            "_cloud": cloud,
            "_working_group": working_group,
            "_task_type": None,
            "_processing_type": processing_type,
            "_priority": 0,
            "_core_count": 1,
            "_total_memory": DEFAULT_MEMORY_MB,
            # Of the request itself it says when iDDS may end it; a work takes it for want of one of its own.
            "_max_walltime": RUN_WALLTIME if request_id is None else 0,
            "_max_attempt": 1,
            "_username": site.user_name,
            "_userdn": None,
            "_lifetime": LIFETIME,
            "_distributed": True,
            # The runner publishes by itself: iDDS's broker and its password stay out of it.
            "_broker_initialized": False,
            "_brokers": None,
            "_broker_timeout": 180,
            "_broker_username": None,
            "_broker_password": None,
            "_broker_destination": None,
            "_init_env": None,
            "_clean_env": None,
            "_post_script": None,
            "_enable_separate_log": False,
            "_container_options": None,
            "_campaign": None,
            "_campaign_scope": None,
            "_campaign_group": None,
            "_campaign_tag": None,
            "_max_processing_requests": -1,
        },
    )


def _object(module: str, name: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {"class": name, "module": module, "attributes": {**attributes, "logger": None}}


def _enum(name: str, member: str, value: int) -> dict[str, Any]:
    attributes = {"_value_": value, "_name_": member, "_sort_order_": value}
    return {"class": name, "module": "idds.common.constants", "attributes": attributes}
