"""What Airflow loads as a plugin: our listeners.

A provider's metadata alone does not get plugins loaded (facts/airflow.md section 1), hence an entry point of its own.
"""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from airflow_provider_panda.listeners import component, dag_run


class PandaPlugin(AirflowPlugin):
    """Closes iDDS requests of DAG runs that have ended, and imports ahead of forks."""

    name = "panda"
    listeners: list[Any] = [dag_run, component]  # noqa: RUF012 - as Airflow declares it
