"""The suite itself: nothing is left out without a reason, and the comparison sees what it is there for."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from airflow_provider_panda.local.api import ENDPOINTS

from .description import described
from .gaps import NOT_DESCRIBED, NOT_HERE, VOLATILE
from .samples import exchanges
from .shapes import differences, normalised
from .table import coverage, here, reason_not_here


def test_every_call_is_here_or_excused() -> None:
    missing = described() - here()
    assert [call for call in sorted(missing) if reason_not_here(call) is None] == []
    assert [call for call in sorted(here() & described()) if reason_not_here(call)] == []
    assert here() - described() == set(NOT_DESCRIBED)
    assert all(NOT_HERE.values())


def test_the_table_names_everything() -> None:
    text = coverage()
    lines = text.splitlines()
    for name in exchanges():
        assert any(line.split()[:1] == [name] for line in lines), name
    for call in described():
        listed = f"  {call:55} {reason_not_here(call)}" in lines
        assert listed is (tuple(call.split("/")) not in ENDPOINTS), call
    assert "nobody says why" not in text
    print(text)


REAL = {"success": True, "message": "jediTaskID=11 is done", "data": [{"PandaID": 3, "status": "done", "x": None}]}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda a: a, None),
        (lambda a: a["data"][0].update(PandaID=77), None),
        (lambda a: a.update(message="jediTaskID=12 is done"), None),
        (lambda a: a.update(message="jediTaskID=12 is running"), ".message"),
        (lambda a: a.update(success=False), ".success"),
        (lambda a: a.update(data={}), ".data"),
        (lambda a: a.update(data=[]), ".data"),
        (lambda a: a["data"].append(a["data"][0]), ".data"),
        (lambda a: a["data"][0].update(status="failed"), ".data[].status"),
        (lambda a: a["data"][0].update(PandaID="3"), ".data[].PandaID"),
        (lambda a: a["data"][0].update(x=1), ".data[].x"),
        (lambda a: a["data"][0].update(y=1), ".data[].y"),
        (lambda a: a["data"][0].pop("x"), ".data[].x"),
        (lambda a: a.pop("message"), ".message"),
    ],
)
def test_the_comparison_sees_differences(change: Any, expected: str | None) -> None:
    ours = copy.deepcopy(REAL)
    change(ours)
    found = [path for path, _ in differences(REAL, ours, volatile=VOLATILE, ids={})]
    assert found == ([] if expected is None else [expected])


def test_texts_are_compared_without_ids() -> None:
    assert normalised("jediTaskID=11 at http://127.0.0.1:4711/x") == "jediTaskID=<n> at <host>/x"
    assert normalised("kill by Test User") == "kill by Test User"
    assert normalised("sources.test-1.tar.gz") == "sources.test-1.tar.gz"
