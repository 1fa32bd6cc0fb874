"""From a task specification to PanDA's task parameters (facts/panda.md sections 7 and 10)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from airflow_provider_panda.grid.task import Resources, TaskSpec

TRANSFORM_URL: Final = "https://storage.googleapis.com/drp-us-central1-containers/bash-c-enc"
"""Transform that decodes and runs a shell line; pilots accept few URL bases, this one among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GridDefaults:
    """What a connection gives to tasks that do not say it themselves.

    :param queue: PanDA queue.
    :param cloud: PanDA cloud.
    :param working_group: PanDA working group.
    :param transform_url: URL of the transform that runs ``encJobParams`` shell lines.
    """

    queue: str | None = None
    cloud: str | None = None
    working_group: str | None = None
    transform_url: str = TRANSFORM_URL


def task_parameters(
    spec: TaskSpec, *, vo: str, source_url: str, defaults: GridDefaults, user_name: str = "airflow"
) -> dict[str, Any]:
    """Return the task parameter map of a task, for PanDA API v1 task/submit.

    ``architecture``, ``transUses`` and ``transHome`` must exist, or JEDI breaks the task after accepting it.
    ``noInput`` with ``nFiles`` alone makes one job; the ``pfnList`` makes ``n_jobs`` of them.

    :param spec: the task.
    :param vo: virtual organisation; a role after a dot or colon is dropped.
    :param source_url: base URL of the cache that holds the archive.
    :param defaults: what the connection gives.
    :param user_name: owner; the server puts a plain user's own name in its place.
    """
    resources: Resources = spec.resources
    queue = resources.queue or defaults.queue
    cloud = resources.cloud or defaults.cloud
    working_group = resources.working_group or defaults.working_group
    parameters: dict[str, Any] = {
        "taskName": spec.name,
        "uniqueTaskName": True,
        "userName": user_name,
        "vo": vo.replace(":", ".").partition(".")[0],
        "prodSourceLabel": "user",
        "taskType": "anal",
        "processingType": spec.processing_type,
        "taskPriority": resources.priority,
        "architecture": "",
        "transUses": "",
        "transHome": "",
        "transPath": defaults.transform_url,
        "encJobParams": True,
        "useSecrets": spec.use_secrets,
        "sourceURL": source_url,
        "noInput": True,
        "nFiles": spec.n_jobs,
        "nFilesPerJob": 1,
        "pfnList": [f"j{index}" for index in range(spec.n_jobs)],
        "coreCount": resources.core_count,
        "maxAttempt": resources.max_attempt,
        "maxFailure": resources.max_attempt,
        "skipScout": True,
        "log": {
            "dataset": f"{spec.name}.log",
            "type": "template",
            "param_type": "log",
            "token": "local",
            "destination": "local",
            "value": f"{spec.name}.log.$JEDITASKID.${{SN}}.log.tgz",
        },
        "jobParameters": [{"type": "constant", "value": spec.command}],
    }
    if resources.memory_mb is not None:
        parameters["ramCount"], parameters["ramUnit"] = resources.memory_mb, "MB"
    if resources.walltime is not None:
        parameters["walltime"] = math.ceil(resources.walltime.total_seconds())
    if queue:
        parameters["site"] = queue
    if cloud:
        parameters["cloud"] = cloud
    if working_group:
        parameters["workingGroup"] = working_group
    if spec.container:
        parameters["container_name"] = spec.container
    return parameters
