"""Task parameters, field by field."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest

from airflow_provider_panda.grid.parameters import TRANSFORM_URL, GridDefaults, task_parameters
from airflow_provider_panda.grid.task import Resources, TaskSpec


def made(*, resources: Resources | None = None, defaults: GridDefaults | None = None, vo: str = "wlcg", **spec: Any) -> dict[str, Any]:  # fmt: skip # noqa: E501
    fields = {
        "key": "afabcd00000000000000",
        "name": "airflow-x-afabcd00000000000000",
        "n_jobs": 3,
        "command": 'python3 boot.py --job "${IN/T}" --attempt ${ATTEMPTNR}',
        "archive_name": "sources.0.tar.gz",
        "processing_type": "airflow-abcd",
    }
    return task_parameters(
        TaskSpec(**{**fields, **spec}, resources=resources or Resources()),
        vo=vo,
        source_url="https://cache.example:25443",
        defaults=defaults or GridDefaults(),
    )


def test_what_every_task_has() -> None:
    parameters = made()
    assert {key: parameters[key] for key in ("architecture", "transUses", "transHome")} == {
        "architecture": "",
        "transUses": "",
        "transHome": "",
    }
    assert parameters["taskName"].endswith("afabcd00000000000000")
    assert parameters["uniqueTaskName"] is True
    assert parameters["encJobParams"] is True
    assert parameters["skipScout"] is True
    assert parameters["prodSourceLabel"] == "user"
    assert parameters["processingType"] == "airflow-abcd"
    assert parameters["transPath"] == TRANSFORM_URL
    assert parameters["sourceURL"] == "https://cache.example:25443"
    assert parameters["jobParameters"] == [
        {"type": "constant", "value": 'python3 boot.py --job "${IN/T}" --attempt ${ATTEMPTNR}'}
    ]
    assert re.fullmatch(r".+\.log\.\$JEDITASKID\.\$\{SN\}\.log\.tgz", parameters["log"]["value"])
    assert set(parameters["log"]) == {"dataset", "type", "param_type", "token", "destination", "value"}


def test_n_jobs() -> None:
    parameters = made(n_jobs=3)
    assert parameters["noInput"] is True
    assert (parameters["nFiles"], parameters["nFilesPerJob"]) == (3, 1)
    assert parameters["pfnList"] == ["j0", "j1", "j2"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"resources": Resources(queue="Q")}, {"site": "Q"}),
        ({"defaults": GridDefaults(queue="D")}, {"site": "D"}),
        ({"resources": Resources(queue="Q"), "defaults": GridDefaults(queue="D")}, {"site": "Q"}),
        ({"resources": Resources(cloud="US")}, {"cloud": "US"}),
        ({"defaults": GridDefaults(working_group="wg")}, {"workingGroup": "wg"}),
        ({"defaults": GridDefaults(transform_url="https://t/x")}, {"transPath": "https://t/x"}),
        ({"resources": Resources(core_count=4)}, {"coreCount": 4}),
        ({"resources": Resources(memory_mb=2500)}, {"ramCount": 2500, "ramUnit": "MB"}),
        ({"resources": Resources(walltime=timedelta(hours=1, milliseconds=1))}, {"walltime": 3601}),
        ({"resources": Resources(max_attempt=5)}, {"maxAttempt": 5, "maxFailure": 5}),
        ({"resources": Resources(priority=950)}, {"taskPriority": 950}),
        ({"container": "docker://x"}, {"container_name": "docker://x"}),
        ({"use_secrets": False}, {"useSecrets": False}),
        ({"vo": "wlcg.production"}, {"vo": "wlcg"}),
        ({"vo": "wlcg:production"}, {"vo": "wlcg"}),
    ],
)
def test_each_field(given: dict[str, Any], expected: dict[str, Any]) -> None:
    parameters = made(**given)
    assert {key: parameters[key] for key in expected} == expected


def test_what_is_not_given_is_left_to_panda() -> None:
    assert not {"site", "cloud", "workingGroup", "ramCount", "walltime", "container_name"} & set(made())
