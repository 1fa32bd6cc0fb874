"""The DAG files: they parse without heavy modules and have the tasks that the page shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DAGS = Path(__file__).parents[3] / "dags"

PROGRAM = """
import json, sys, time
sys.path.append({dags!r})
from airflow.sdk import task
task.panda
before = set(sys.modules)
start = time.process_time()
import hello_grid, tth_hpo
seconds = time.process_time() - start
heavy = [m for m in ("numpy", "xgboost", "optuna", "matplotlib", "tth_toy") if m in set(sys.modules) - before]
dag, hello = tth_hpo.tth_hpo(), hello_grid.hello_grid()
print(json.dumps({{
    "seconds": seconds,
    "heavy": heavy,
    "hello": {{t.task_id: sorted(t.upstream_task_ids) for t in hello.tasks}},
    "tth": {{t.task_id: sorted(t.upstream_task_ids) for t in dag.tasks}},
    "on_grid": sorted(t.task_id for t in dag.tasks if t.task_type.startswith("_Panda")),
    "params": {{name: dag.params[name] for name in dag.params}},
    "rounds": tth_hpo.ROUNDS,
}}))
"""


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("study") / "airflow"
    environment = {**os.environ, "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(dags=str(DAGS))],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return {"home": home, **json.loads(ran.stdout.splitlines()[-1])}


def test_parsing_loads_nothing_that_only_workers_need(parsed):
    assert parsed["heavy"] == []


def test_hello_is_a_grid_task_and_a_plain_one(parsed):
    assert parsed["hello"] == {"hello": [], "show": ["hello"]}


def test_study_goes_round_by_round(parsed):
    tth = parsed["tth"]
    assert parsed["on_grid"] == ["evaluate_default", *(f"round_{n}.evaluate" for n in range(1, parsed["rounds"] + 1))]
    for number in range(1, parsed["rounds"] + 1):
        group = f"round_{number}"
        before = [] if number == 1 else [f"round_{number - 1}.tell"]
        assert tth[f"{group}.suggest"] == before
        assert tth[f"{group}.evaluate"] == [f"{group}.suggest"]
        assert tth[f"{group}.tell"] == sorted([f"{group}.suggest", f"{group}.evaluate", *before])
    assert tth["report"] == ["evaluate_default", f"round_{parsed['rounds']}.tell"]


def test_default_size_is_at_least_32_grid_jobs(parsed):
    params = parsed["params"]
    assert params["rounds"] * params["points"] + 1 >= 33
    assert params["rounds"] <= parsed["rounds"]


def test_plots_go_next_to_airflow_home_not_into_the_dags_folder(parsed):
    output = Path(parsed["params"]["output"])
    assert output == parsed["home"].parent / "tth-hpo"
    assert DAGS not in output.parents
