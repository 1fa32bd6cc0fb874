"""What a submission under a name that is taken comes to, and which of its parameters count."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_panda.local.resubmission import REEXECUTED_FROM, Code, judge, taken_over
from airflow_provider_panda.local.state import TaskState


@pytest.mark.parametrize("state", TaskState)
@pytest.mark.parametrize("allow_active", [False, True])
@pytest.mark.parametrize("label", ["user", "managed"])
def test_judge(state: TaskState, allow_active: bool, label: str) -> None:
    verdict = judge(state, task_id=7, name="n", label=label, allow_active=allow_active)
    if state is TaskState.WAITING:
        expected = Code.QUEUED
    elif state in REEXECUTED_FROM:
        expected = Code.REEXECUTED
    elif state in (TaskState.RUNNING, TaskState.PENDING) and allow_active and label == "user":
        expected = Code.AMENDED
    else:
        expected = Code.ACTIVE
    assert verdict.code is expected
    assert "jediTaskID=7" in verdict.message, "clients read the id out of it"


@pytest.mark.parametrize(
    ("new", "changed"),
    [
        ({"nFiles": 5}, {"nFiles": 5}),
        ({"site": "B", "jobParameters": ["other"]}, {"site": "B"}),
        ({"dsForIN": "d"}, {"dsForIN": "d"}),
        ({"priority": 9}, {"currentPriority": 9}),
        ({"loopingCheck": True}, {"noLoopingCheck": False}),
        ({"sourceURL": "u"}, {}),
        ({"fixedSandbox": "f", "sourceURL": "u"}, {"fixedSandbox": "f", "sourceURL": "u"}),
    ],
)
def test_what_is_taken_over(new: dict[str, Any], changed: dict[str, Any]) -> None:
    old = {"jobParameters": ["first"], "nFiles": 1}
    assert taken_over(old, new) == {**old, **changed}
