"""Task parameter maps and what they come to."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from airflow_provider_panda.local.refine import BrokenTaskError, job_text, refine

BASE: dict[str, Any] = {
    "taskName": "user.a.b",
    "userName": "A",
    "vo": "wlcg",
    "taskPriority": 1000,
    "architecture": "",
    "transUses": "",
    "transHome": "",
    "transPath": "x/bash-c",
    "processingType": "p",
    "prodSourceLabel": "user",
    "taskType": "anal",
    "noInput": True,
    "sourceURL": "http://s",
    "jobParameters": [{"type": "constant", "value": '-i "${IN/T}" --url ${SURL}'}],
}


def refined(**changes: Any) -> Any:
    params = {**BASE, **changes}
    return refine({k: v for k, v in params.items() if v is not ...}, task_id=7, vos=["wlcg"])


@pytest.mark.parametrize(
    ("changes", "lfns"),
    [
        ({"nFiles": 2}, ("pseudo_lfn",)),
        ({"nFiles": 2, "nFilesPerJob": 1, "pfnList": ["a", "b"]}, ("000000:a", "000001:b")),
        ({"nFiles": 1, "pfnList": ["a", "b"]}, ("000000:a",)),
        ({"nEvents": 3, "nEventsPerJob": 1}, ("pseudo_lfn",) * 3),
        ({"nEvents": 3, "nEventsPerJob": 2}, ("pseudo_lfn",) * 2),
    ],
)
def test_number_of_inputs(changes: dict[str, Any], lfns: tuple[str, ...]) -> None:
    assert refined(**changes).lfns == lfns


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"architecture": ...}, "failed to extract common parameters with KeyError:'architecture' Traceback"),
        ({"jobParameters": ...}, "KeyError:'jobParameters'"),
        ({"vo": "atlas"}, "task refiner is undefined for vo=atlas sourceLabel=user"),
        ({"noInput": ...}, "no data management"),
        ({"pfnList": "a"}, "pfnList must be a list"),
        ({"nEvents": 10**9, "nEventsPerJob": 1}, "1000000000 inputs"),
        ({"jobParameters": ["x"]}, "failed to refine"),
        ({"maxAttempt": "many"}, "failed to refine"),
    ],
)
def test_what_is_broken(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(BrokenTaskError, match=text):
        refined(**changes)


def test_placeholders() -> None:
    items = [
        {"type": "constant", "value": "${IN/T} ${SN} ${SN/P} ${MAXEVENTS} ${ATTEMPTNR}"},
        {"type": "constant", "value": "no", "hidden": True},
        {"type": "constant", "value": "a", "padding": False},
        {"type": "constant", "value": "b ${PANDAID} ${FIRSTEVENT:0} ${JEDITASKID} ${SURL}"},
        {"type": "template", "param_type": "output", "value": "o.$JEDITASKID._${SN}.root", "dataset": "d"},
    ]
    task = refined(jobParameters=items, pfnList=["x y", "z"], nFilesPerJob=2, nEventsPerJob=5)
    text = job_text(task, inputs=task.lfns, serial=3, attempt=2)
    assert text.parameters == (
        "['x y', 'z'] 3 000003 5 2 ab ${PANDAID} ${FIRSTEVENT:0} ${JEDITASKID} http://s o.7._000003.root"
    )
    assert text.files == (("output", "o.7._000003.root"),)


def test_encoded_parameters() -> None:
    task = refined(encJobParams=True, pfnList=["j0"])
    text = job_text(task, inputs=["000000:j0"], serial=1, attempt=1).parameters
    assert base64.b64decode(text).decode() == "-i \"['j0']\" --url http://s"


def test_text_of_an_input_is_not_looked_into() -> None:
    """A placeholder inside a value that was put in stays as it is."""
    task = refined(pfnList=["${SN}"])
    assert job_text(task, inputs=["000000:${SN}"], serial=9, attempt=1).parameters.startswith("-i \"['${SN}']\"")


def test_what_jedi_adds() -> None:
    task = refined(log={"dataset": "d.log", "param_type": "log", "value": "l.$JEDITASKID.${SN}.tgz"})
    assert task.params["pushStatusChanges"] is True
    assert task.params["log"]["value"] == "${LOG0}"
    assert task.params["jobParameters"][0]["value"].endswith("http://s")
    assert job_text(task, inputs=["pseudo_lfn"], serial=1, attempt=1).files == (("log", "l.7.000001.tgz"),)
