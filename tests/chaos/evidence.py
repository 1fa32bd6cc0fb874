"""Reads what Airflow and the grid have at the end."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final, TypeVar

import httpx

from demo.airflow import Airflow
from tests.chaos.verify import NO_VALUE, GridTaskSeen, TaskSeen

T = TypeVar("T")

PATIENCE: Final = 90.0
"""Seconds in which an API server that was killed is back."""


def patiently(call: Callable[[], T], *, seconds: float = PATIENCE) -> T:
    """Return what a call of Airflow's API returns, made again while the API server is away."""
    end = time.monotonic() + seconds
    while True:
        try:
            return call()
        except httpx.TransportError:
            if time.monotonic() > end:
                raise
        except httpx.HTTPStatusError as error:
            if error.response.status_code < 500 or time.monotonic() > end:
                raise
        time.sleep(0.5)


def tasks_of(airflow: Airflow, runs: Collection[tuple[str, str]], *, values: bool = True) -> list[TaskSeen]:
    """Return the task instances of DAG runs.

    :param values: whether their return values are read as well.
    """
    found = []
    for dag_id, run_id in runs:
        for task in patiently(lambda d=dag_id, r=run_id: airflow.task_instances(d, r)):  # type: ignore[misc]
            has_value = values and task["state"] == "success"
            found.append(
                TaskSeen(
                    dag_id=dag_id,
                    run_id=run_id,
                    task_id=task["task_id"],
                    state=task["state"],
                    tries=task["try_number"],
                    value=_value(airflow, dag_id, run_id, task["task_id"]) if has_value else NO_VALUE,
                )
            )
    return found


def _value(airflow: Airflow, dag_id: str, run_id: str, task_id: str) -> object:
    try:
        return patiently(lambda: airflow.xcom(dag_id, run_id, task_id))
    except httpx.HTTPStatusError as error:
        if error.response.status_code == 404:
            return NO_VALUE
        raise


def grid_tasks(store: Path) -> list[GridTaskSeen]:
    """Return every PanDA task in the grid's database that an Airflow made."""
    statement = (
        "SELECT task_id, name, state, (SELECT count(*) FROM jobs WHERE jobs.task_id = tasks.task_id),"
        " created, ended"
        " FROM tasks WHERE name LIKE 'airflow-%'"
    )
    database = sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=30)
    try:
        rows = database.execute(statement).fetchall()
    finally:
        database.close()
    return [
        GridTaskSeen(jedi_id=row[0], name=row[1], state=row[2], attempts=row[3], created=row[4], ended=row[5])
        for row in rows
    ]
