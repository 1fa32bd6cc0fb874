"""PandaTaskOperator and PandaTaskSensor in real Airflow, with jobs on the embedded grid."""

from __future__ import annotations

import re

import pytest

from tests.system.conftest import Stack
from tests.system.test_functions import ran

pytestmark = pytest.mark.timeout(600)


def test_command_sensor_and_map(stack: Stack) -> None:
    airflow = stack.airflow
    run_id, state = ran(stack, "system_tasks")
    assert state == "success", {t: airflow.task_log("system_tasks", run_id, t)[-3000:] for t in ("count", "see", "map")}
    value = airflow.xcom("system_tasks", run_id, "count")
    assert value["files"] == {"total": 3, "finished": 3, "failed": 0}
    assert value["outputs"] == [f"{value['name']}.counted.txt"]
    assert airflow.xcom("system_tasks", run_id, "see") == value
    mapped = airflow.xcom("system_tasks", run_id, "map")
    assert mapped["name"].startswith(f"user.me.{value['task_id']}-af")
    assert airflow.xcom("system_tasks", run_id, "tell") == ["files", "name", "outputs", "state", "task_id"]
    url = airflow.xcom("system_tasks", run_id, "see", key="panda_task_url")
    assert url == f"{stack.grid.url}/task/{value['task_id']}/"


def test_failures_say_why(stack: Stack) -> None:
    airflow = stack.airflow
    run_id, state = ran(stack, "system_tasks_fail")
    assert state == "failed"
    states = airflow.states("system_tasks_fail", run_id)
    assert states == {
        "fails": "failed", "makes_nothing": "failed", "slow": "success", "submitted": "success", "early": "skipped",
    }  # fmt: skip
    log = airflow.task_log("system_tasks_fail", run_id, "fails")
    assert re.search(r"PanDA task \d+ ended as 'failed', not done.*payload 7: the beam is off", log)
    log = airflow.task_log("system_tasks_fail", run_id, "makes_nothing")
    assert "did not make its output nothing.root" in log
