"""A task parameter map that a user wrote, made complete: only what PanDA needs and is missing is added."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from airflow_provider_panda.exceptions import ConfigurationError
from airflow_provider_panda.grid.parameters import GridDefaults

SUBJECT = "argument task_parameters"


def check_parameters(given: object) -> Mapping[str, Any]:
    """Return a task parameter map that can be completed.

    :raises ConfigurationError: it is none.
    """
    if not isinstance(given, Mapping):
        raise ConfigurationError(
            SUBJECT,
            f"it is a {type(given).__name__}, not a task parameter map",
            "Give a dictionary (a template that yields one needs render_template_as_native_obj=True on the DAG)",
        )
    items = given.get("jobParameters")
    if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
        raise ConfigurationError(
            SUBJECT,
            "jobParameters is no list of parameter items",
            'Give one such as [{"type": "constant", "value": "..."}], or use command=',
        )
    if given.get("uniqueTaskName", True) is not True:
        raise ConfigurationError(
            SUBJECT,
            "uniqueTaskName is off, so a repeated submission would make a second task",
            "Leave uniqueTaskName out",
        )
    return given


def complete_parameters(
    given: Mapping[str, Any],
    *,
    key: str,
    name: str,
    processing_type: str,
    vo: str,
    source_url: str,
    defaults: GridDefaults,
    user_name: str,
) -> dict[str, Any]:
    """Return a task parameter map with what JEDI needs, without which it breaks a task after accepting it.

    A given taskName gets the task key at its end: PanDA would take an ended task of the same name up again instead of
    making a new one.

    :param given: what the user wrote; kept as it is otherwise.
    :param key: task key.
    :param name: PanDA task name if none is given.
    :param processing_type: by which the task is listed if none is given.
    :param vo: virtual organisation, with or without role.
    :param source_url: base URL of the cache.
    :param defaults: what the connection gives.
    :param user_name: owner; the server puts a plain user's own name in its place.
    :raises ConfigurationError: it is no task parameter map.
    """
    parameters: dict[str, Any] = copy.deepcopy(dict(check_parameters(given)))
    wanted = str(parameters.get("taskName") or name)
    parameters["taskName"] = wanted = wanted if wanted.endswith(key) else f"{wanted.rstrip('/')}-{key}"
    if not parameters.get("transPath"):
        parameters["transPath"] = defaults.transform_url
        parameters.setdefault("encJobParams", True)
    for field, value in {
        "uniqueTaskName": True,
        "userName": user_name,
        "vo": vo.replace(":", ".").partition(".")[0],
        "prodSourceLabel": "user",
        "taskType": "anal",
        "processingType": processing_type,
        "taskPriority": 900,
        "architecture": "",
        "transUses": "",
        "transHome": "",
        "sourceURL": source_url,
        "site": defaults.queue,
        "cloud": defaults.cloud,
        "workingGroup": defaults.working_group,
        "log": {
            "dataset": f"{wanted}.log",
            "type": "template",
            "param_type": "log",
            "token": "local",
            "destination": "local",
            "value": f"{wanted}.log.$JEDITASKID.${{SN}}.log.tgz",
        },
    }.items():
        if value is not None:
            parameters.setdefault(field, value)
    if parameters["log"] is None:  # the user wants none
        del parameters["log"]
    if not any(str(item.get("param_type", "")).endswith("input") for item in parameters["jobParameters"]):
        parameters.setdefault("noInput", True)
    if parameters.get("noInput") and not any(parameters.get(name) for name in ("nFiles", "nEvents", "pfnList")):
        parameters["nFiles"] = 1
        parameters.setdefault("nFilesPerJob", 1)
    return parameters
