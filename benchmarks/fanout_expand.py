"""The same jobs as one Airflow task and as many, in a private real Airflow on the embedded grid. For ``fanout.py``."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Any, Final

from benchmarks.installation import installed
from demo.airflow import Airflow

DAGS: Final = """
from airflow.sdk import dag, task

HERE = {{"python": {python!r}}}


def square(n):
    return n * n


@dag(schedule=None, max_active_tasks={count})
def fanout_warm():
    task.panda(square, environment=HERE)(1)


@dag(schedule=None, max_active_tasks={count})
def fanout_map_over():
    task.panda(square, environment=HERE, map_over="n")(list(range({count})))


@dag(schedule=None, max_active_tasks={count})
def fanout_expand():
    task.panda(square, environment=HERE).expand(n=list(range({count})))


fanout_warm()
fanout_map_over()
fanout_expand()
"""
SLOTS: Final = 16
PATIENCE: Final = 170.0
"""Seconds that one DAG run may take."""


def seconds_of(run: dict[str, Any]) -> float:
    """Return how long a DAG run took, as Airflow says it."""
    begin, end = (datetime.fromisoformat(run[name]) for name in ("start_date", "end_date"))
    return (end - begin).total_seconds()


def ways(count: int) -> dict[str, float]:
    """Return the seconds of a DAG run of ``count`` jobs: by ``map_over`` and by ``expand``.

    :param count: how many jobs.
    """
    dag_file = DAGS.format(python=sys.executable, count=count)
    with installed({"fanout_dags.py": dag_file}, grid_arguments=["--slots", str(SLOTS)]) as here:
        here.airflow.wait_for_dags(["fanout_warm", "fanout_map_over", "fanout_expand"])
        # The first look-up of a triggerer's life takes ten seconds (facts/airflow.md section 2).
        _run(here.airflow, "fanout_warm")
        return {way: _run(here.airflow, f"fanout_{way}") for way in ("map_over", "expand")}


def _run(airflow: Airflow, dag_id: str) -> float:
    run_id = airflow.trigger(dag_id)
    state = airflow.wait_for_run(dag_id, run_id, timeout=PATIENCE)
    if state != "success":
        raise RuntimeError(f"{dag_id} is {state}: {airflow.states(dag_id, run_id)}")
    return seconds_of(airflow.get(f"/dags/{dag_id}/dagRuns/{run_id}"))
