"""``retry = "failed_jobs"`` with Airflow's own retries, and a clear after the success."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from airflow_provider_panda.operators.kept import NOTE_KEY
from tests.system.conftest import Stack, must_succeed

pytestmark = pytest.mark.timeout(600)

DAG = "system_failed_jobs"


def executions(folder: Path) -> Counter[int]:
    return Counter(int(file.name.partition("_")[0]) for file in folder.iterdir())


def test_retries_send_what_has_no_value_and_a_clear_after_the_success_sends_everything(
    stack: Stack, tmp_path: Path
) -> None:
    airflow = stack.airflow
    airflow.wait_for_dags([DAG])
    run_id = airflow.trigger(DAG, {"folder": str(tmp_path)})
    must_succeed(airflow, DAG, run_id)

    assert executions(tmp_path) == Counter({0: 1, 1: 1, 2: 3, 3: 1, 4: 2, 5: 1})
    assert airflow.xcom(DAG, run_id, "measure") == [0, 10, 20, 30, 40, 50]
    assert airflow.xcom(DAG, run_id, "total") == 150
    first, second, third = (airflow.task_log(DAG, run_id, "measure", number) for number in (1, 2, 3))
    assert "2 of 6 job(s) failed" in first
    assert "4 of 6 job(s) have values of earlier tries" in second
    assert "job 2 failed with RuntimeError: 2 fails" in second, "by its index in the call"
    assert "5 of 6 job(s) have values of earlier tries" in third
    kept = airflow.get(f"/dags/{DAG}/dagRuns/{run_id}/taskInstances/measure/state-store", map_index=-1)
    assert "panda_" in str(kept), "what the tries submitted"
    assert NOTE_KEY not in str(kept)

    again = {"dag_run_id": run_id, "task_ids": ["measure"], "dry_run": False, "include_downstream": True,
             "only_failed": False, "reset_dag_runs": True}  # fmt: skip
    airflow.post(f"/dags/{DAG}/clearTaskInstances", again)
    must_succeed(airflow, DAG, run_id)
    assert executions(tmp_path) == Counter({0: 2, 1: 2, 2: 4, 3: 2, 4: 3, 5: 2})
