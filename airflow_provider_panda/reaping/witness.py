"""Who may say what Airflow waits for: its metadata database where there is one, its REST API elsewhere."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from airflow_provider_panda.reaping.orphans import Attempt, GridTask, Present
from airflow_provider_panda.triggers.looks import Place


class Witness(Protocol):
    """What a reaper asks of Airflow. Each call reads what is so at that moment."""

    def attempts(self, tasks: Collection[GridTask]) -> dict[str, Attempt]:
        """Return the tries that the keys of these tasks were made for, by key.

        :raises AirflowUnreadableError: Airflow does not answer.
        """

    def present(self, places: Collection[Place]) -> dict[Place, Present]:
        """Return what these task instances are now; those that are gone are left out.

        :raises AirflowUnreadableError: Airflow does not answer.
        """

    def ended_runs(self, since: float) -> list[tuple[str, str]]:
        """Return DAG and run id of the DAG runs that have ended, no earlier than a Unix time in seconds.

        :raises AirflowUnreadableError: Airflow does not answer.
        """
