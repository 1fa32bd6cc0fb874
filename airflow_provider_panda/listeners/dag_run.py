"""Hears that a DAG run has ended, in the scheduler or the API server, and has its iDDS request closed.

Imported by every component of Airflow: it imports nothing of ours until a run ends, and never makes the caller wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.listeners import hookimpl

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun


@hookimpl
def on_dag_run_success(dag_run: DagRun, msg: str) -> None:
    """Hand over a run that succeeded."""
    _hand_over(dag_run)


@hookimpl
def on_dag_run_failed(dag_run: DagRun, msg: str) -> None:
    """Hand over a run that failed."""
    _hand_over(dag_run)


def _hand_over(dag_run: DagRun) -> None:
    from airflow_provider_panda.listeners.closing import closer

    closer().hand_over(dag_run.dag_id, dag_run.run_id, dag_run.clear_number)
