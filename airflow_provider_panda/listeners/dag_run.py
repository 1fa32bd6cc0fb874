"""Hears that a DAG run has ended, in the scheduler or the API server, and has its iDDS request closed.

Imported by every component of Airflow: it imports nothing of ours until a run ends, and never makes the caller wait.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airflow.listeners import hookimpl

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

log = logging.getLogger(__name__)


@hookimpl
def on_dag_run_success(dag_run: DagRun, msg: str) -> None:
    """Hand over a run that succeeded."""
    _hand_over(dag_run)


@hookimpl
def on_dag_run_failed(dag_run: DagRun, msg: str) -> None:
    """Hand over a run that failed."""
    _hand_over(dag_run)


def _hand_over(dag_run: DagRun) -> None:
    try:
        from airflow_provider_panda.grid.idds.runs import generation_of
        from airflow_provider_panda.listeners.closing import closer

        closer().hand_over(dag_run.dag_id, dag_run.run_id, generation_of(dag_run.start_date))
    except Exception:
        # An error here would keep the other listeners of this Airflow from hearing of the run.
        log.exception(
            "the iDDS request of %s, %s stays open: its end could not be noted", dag_run.dag_id, dag_run.run_id
        )
