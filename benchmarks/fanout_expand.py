"""The same jobs as one Airflow task and as many, in a private real Airflow on the embedded grid. For ``fanout.py``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from demo.airflow import Airflow
from demo.grid import Grid
from tests.stack.activemq import ActiveMQ

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


def ways(folder: Path, broker: ActiveMQ, count: int) -> dict[str, float]:
    """Return the seconds of a DAG run of ``count`` jobs: by ``map_over`` and by ``expand``.

    :param folder: where everything is kept.
    :param broker: where results are published.
    :param count: how many jobs.
    """
    with _airflow(folder, broker, count) as airflow:
        airflow.wait_for_dags(["fanout_warm", "fanout_map_over", "fanout_expand"])
        # The first look-up of a triggerer's life takes ten seconds (facts/airflow.md section 2).
        _run(airflow, "fanout_warm")
        return {way: _run(airflow, f"fanout_{way}") for way in ("map_over", "expand")}


def _run(airflow: Airflow, dag_id: str) -> float:
    run_id = airflow.trigger(dag_id)
    state = airflow.wait_for_run(dag_id, run_id, timeout=PATIENCE)
    if state != "success":
        raise RuntimeError(f"{dag_id} is {state}: {airflow.states(dag_id, run_id)}")
    return seconds_of(airflow.get(f"/dags/{dag_id}/dagRuns/{run_id}"))


@contextlib.contextmanager
def _airflow(folder: Path, broker: ActiveMQ, count: int) -> Iterator[Airflow]:
    dags = folder / "dags"
    dags.mkdir()
    (dags / "fanout_dags.py").write_text(DAGS.format(python=sys.executable, count=count))
    grid = Grid(folder / "grid", ["--slots", str(SLOTS)])
    try:
        airflow = Airflow(folder / "airflow", dags, settings={"AIRFLOW__PANDA__POLL_INTERVAL": "5"})
        try:
            airflow.start()
            connect(airflow, grid, broker)
            yield airflow
        finally:
            airflow.stop()
    finally:
        grid.stop()


def connect(airflow: Airflow, grid: Grid, broker: ActiveMQ) -> None:
    """Make both connections, and set the instance up."""
    airflow.add_connection(
        "broker", "stomp", host=broker.host, port=broker.port, login=broker.subscriber.name,
        password=broker.subscriber.passcode,
        extra={"publisher_login": broker.publisher.name, "publisher_password": broker.publisher.passcode},
    )  # fmt: skip
    airflow.add_connection(
        "panda_default", "panda", **grid.panda_fields(),
        extra={"auth": "token", "vo": "wlcg", "broker_conn_id": "broker", "monitor_url": grid.url},
    )  # fmt: skip
    airflow.run("panda", "setup", "panda_default")
