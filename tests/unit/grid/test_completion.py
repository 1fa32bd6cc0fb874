"""A user's task parameter map: what is added, what is kept, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_panda.exceptions import ConfigurationError
from airflow_provider_panda.grid.completion import complete_parameters
from airflow_provider_panda.grid.parameters import TRANSFORM_URL, GridDefaults
from airflow_provider_panda.local.refine import REQUIRED, refine

KEY = "afabcd00000000000000"
ITEM = {"type": "constant", "value": "echo hello"}


def completed(**given: Any) -> dict[str, Any]:
    return complete_parameters(
        {"jobParameters": [ITEM], **given},
        key=KEY,
        name=f"airflow-d-t-r-{KEY}",
        processing_type="airflow-abcd",
        vo="wlcg.production",
        source_url="https://cache",
        defaults=GridDefaults(queue="Q", cloud="US"),
        user_name="Test User",
    )


def test_the_smallest_map_becomes_one_that_jedi_refines() -> None:
    parameters = completed()
    assert set(REQUIRED) <= set(parameters)
    assert refine(parameters, task_id=1, vos=("wlcg",)).lfns == ("pseudo_lfn",)
    wanted = {
        "taskName": f"airflow-d-t-r-{KEY}", "uniqueTaskName": True, "vo": "wlcg", "userName": "Test User",
        "processingType": "airflow-abcd", "transPath": TRANSFORM_URL, "encJobParams": True, "site": "Q", "cloud": "US",
        "noInput": True, "nFiles": 1, "nFilesPerJob": 1, "sourceURL": "https://cache",
    }  # fmt: skip
    assert {name: parameters[name] for name in wanted} == wanted
    assert "workingGroup" not in parameters


def test_what_is_given_is_kept() -> None:
    given = {
        "architecture": "x86_64-el9", "transHome": None, "transPath": "https://trf/user/runGen-00-00-02", "site": "S",
        "processingType": "panda-client-2.2.0-jedi-run", "taskPriority": 1, "vo": "atlas", "nEvents": 10,
        "nEventsPerJob": 5, "prodSourceLabel": "managed",
    }  # fmt: skip
    parameters = completed(**given)
    assert {name: parameters[name] for name in given} == given
    assert "encJobParams" not in parameters  # runGen decodes nothing
    assert "nFiles" not in parameters


def test_the_map_itself_is_not_changed() -> None:
    given = {"jobParameters": [ITEM], "log": {"dataset": "mine"}}
    before = {"jobParameters": [dict(ITEM)], "log": {"dataset": "mine"}}
    parameters = completed(**given)
    parameters["log"]["dataset"] = "changed"
    assert given == before


@pytest.mark.parametrize(
    ("name", "becomes"),
    [
        ("user.me.study", f"user.me.study-{KEY}"),
        ("user.me.study/", f"user.me.study-{KEY}"),
        (f"mine.{KEY}", f"mine.{KEY}"),
    ],
)
def test_a_name_is_made_unique(name: str, becomes: str) -> None:
    parameters = completed(taskName=name)
    assert parameters["taskName"] == becomes
    assert parameters["log"]["dataset"] == f"{becomes}.log"


def test_a_task_with_inputs_is_not_one_without() -> None:
    parameters = completed(jobParameters=[ITEM, {"type": "template", "param_type": "input", "dataset": "d/"}])
    assert "noInput" not in parameters
    assert "nFiles" not in parameters


def test_no_log_where_none_is_wanted() -> None:
    assert "log" not in completed(log=None)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"jobParameters": "echo"}, "no list of parameter items"),
        ({"jobParameters": ["echo"]}, "no list of parameter items"),
        ({"uniqueTaskName": False}, "uniqueTaskName is off"),
    ],
)
def test_maps_of_no_use_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        completed(**given)
