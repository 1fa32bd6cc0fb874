"""The decision: which live grid task nobody waits for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_panda.grid.names import key_in, mark_in, request_name, run_mark, task_name
from airflow_provider_panda.grid.task import task_key
from airflow_provider_panda.reaping.orphans import Attempt, GridTask, Present, Standing, judge
from airflow_provider_panda.triggers.looks import Place

NOW = 1_000_000.0
GRACE = 600.0
PLACE = Place("dag", "run", "task", 3)
KEY, LATER, ADOPTED = (task_key("abcd", name) for name in ("first try", "second try", "adopted"))
TASK = GridTask(task_id=7, name=f"airflow-dag-task-run-{KEY}", key=KEY, status="running", created=NOW - 5000)
ATTEMPT = Attempt(place=PLACE)
WAITS = Present(key=KEY, state="deferred", run_goes_on=True, task_key=KEY, task_id=7)
FAILED = Present(key=KEY, state="failed", run_goes_on=False, ended=NOW - 1000, task_key=KEY, task_id=7)
RETRIED = replace(WAITS, key=LATER, task_key=LATER, task_id=8)


@pytest.mark.parametrize(
    ("task", "attempt", "present", "standing"),
    [
        # waited for
        ({}, ATTEMPT, WAITS, "AWAITED"),
        ({}, ATTEMPT, replace(WAITS, task_id=None), "AWAITED"),  # through iDDS its id comes late
        ({}, ATTEMPT, replace(WAITS, run_goes_on=False), "AWAITED"),  # whatever became of the DAG run
        ({}, ATTEMPT, replace(WAITS, key=LATER), "AWAITED"),  # a retry adopted it
        ({}, ATTEMPT, replace(WAITS, key=LATER, task_key=None), "AWAITED"),  # an XCom backend hides what it waits for
        *[({}, ATTEMPT, replace(RETRIED, state=state), "AWAITED")
          for state in ("scheduled", "queued", "running", "restarting", "up_for_retry", "up_for_reschedule")],
        ({}, ATTEMPT, replace(RETRIED, state=None), "AWAITED"),  # cleared; its next try will settle it
        # too young to tell
        ({"created": NOW - 599}, ATTEMPT, FAILED, "SPARED"),
        ({"created": NOW - 599}, None, None, "SPARED"),
        ({"created": NOW + 60}, ATTEMPT, FAILED, "SPARED"),  # its clock is ahead
        ({"created": None}, ATTEMPT, FAILED, "SPARED"),
        ({}, ATTEMPT, replace(FAILED, ended=NOW - 599), "SPARED"),
        ({}, Attempt(place=PLACE, ended=NOW - 599), RETRIED, "SPARED"),  # its trigger may be about to kill it
        ({}, Attempt(place=PLACE, ended=NOW - 9000), replace(FAILED, key=LATER, ended=NOW - 100), "SPARED"),
        # nobody waits
        ({}, ATTEMPT, FAILED, "ORPHAN"),
        ({}, ATTEMPT, replace(FAILED, state="success"), "ORPHAN"),
        ({}, ATTEMPT, replace(FAILED, state="skipped", ended=None), "ORPHAN"),
        ({}, ATTEMPT, replace(FAILED, state=None, ended=None), "ORPHAN"),  # never to be run: its DAG run has ended
        ({}, Attempt(place=PLACE, ended=NOW - 601), RETRIED, "ORPHAN"),
        ({}, Attempt(place=PLACE, ended=NOW - 601), replace(RETRIED, task_key=ADOPTED), "ORPHAN"),
        ({"task_id": 9}, ATTEMPT, WAITS, "ORPHAN"),  # submitted twice
        ({"created": NOW - 599, "task_id": 9}, ATTEMPT, WAITS, "SPARED"),
        # not ours to judge
        ({}, None, None, "UNKNOWN"),
        ({}, ATTEMPT, None, "UNKNOWN"),  # deleted since
    ],
)  # fmt: skip
def test_standing(task: dict[str, Any], attempt: Attempt | None, present: Present | None, standing: str) -> None:
    found = judge(replace(TASK, **task), attempt, present, now=NOW, grace=GRACE)
    assert found.standing is Standing[standing], found.why
    assert found.why


def test_the_key_is_found_at_the_end_of_a_name_however_it_came_there() -> None:
    assert key_in(task_name("my.dag", "t", "manual__2026-11-26T00:00:00+00:00", KEY), "abcd") == KEY
    assert key_in(f"airflow-dag-task-run-{KEY}_12_345", "abcd") == KEY  # as iDDS names it
    assert key_in(f"user.me.study-{KEY}", "abcd") == KEY


@pytest.mark.parametrize(
    "name",
    [
        f"airflow-dag-task-run-{task_key('abce', 'x')}",
        f"airflow-dag-task-run-{KEY}-more",
        f"airflow-dag-task-run-{KEY}x",
        f"airflow-dag-task-run-x{KEY}",
        f"airflow-dag-task-run-{KEY[:-1]}",
        f"airflow-dag-task-run-{KEY[:-1]}0",
        "user.me.something",
        "",
    ],
)
def test_no_other_name_has_a_key_of_this_instance(name: str) -> None:
    assert key_in(name, "abcd") is None


def test_the_run_of_a_request_is_found_in_its_name() -> None:
    mark = run_mark("abcd", "dag", "run")
    name = request_name("dag", "run", mark, 12, KEY)
    assert mark_in(name, "abcd") == mark
    assert mark_in(name, "abce") is None
    assert mark_in("airflow-x-y", "abcd") is None
