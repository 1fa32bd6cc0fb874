"""Where a task ends, and that nobody can tell by what it leaves: real Airflow, real ActiveMQ, the embedded grid."""

from __future__ import annotations

import pytest

from tests.system.conftest import Stack, must_succeed

pytestmark = pytest.mark.timeout(600)

DAG = "system_endings"
IN_TRIGGERER = ("plain", "mapped", "nothing")
ON_WORKER = ("pair", "callback", "outlet", "outputs", "mapped_over")
VALUE = {"mass": 125.25, "tags": ["gg", None], "number": 1}


def test_a_task_ends_where_nothing_is_left_and_leaves_the_same(stack: Stack) -> None:
    airflow = stack.airflow
    airflow.wait_for_dags([DAG])
    noted = stack.folder / "noted"
    noted.mkdir()
    run_id = airflow.trigger(DAG, {"noted": str(noted)})
    must_succeed(airflow, DAG, run_id)

    assert airflow.xcom(DAG, run_id, "plain") == VALUE
    assert airflow.xcom(DAG, run_id, "received") == ["dict", VALUE, [2, 4, 6], None]
    assert airflow.xcom(DAG, run_id, "outputs", key="mass") == 125.25
    assert [airflow.xcom(DAG, run_id, "each", map_index=i) for i in range(2)] == [11, 13]
    assert [file.name for file in noted.iterdir()] == ["callback"]
    events = airflow.get("/assets/events", source_dag_id=DAG, source_run_id=run_id)["asset_events"]
    assert [event["source_task_id"] for event in events] == ["outlet"]

    logs = {task_id: airflow.task_log(DAG, run_id, task_id) for task_id in (*IN_TRIGGERER, *ON_WORKER)}
    resumed = {task_id for task_id, log in logs.items() if "job(s) returned" in log}
    assert resumed == set(ON_WORKER)
    instances = {each["task_id"]: each for each in airflow.task_instances(DAG, run_id)}
    for task_id in IN_TRIGGERER:
        assert instances[task_id]["end_date"]
        assert instances[task_id]["duration"] > 0
