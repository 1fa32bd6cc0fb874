"""What the commands of ``airflow panda`` do; their arguments are declared in :mod:`airflow_provider_panda.cli`."""

from __future__ import annotations

import os


def read_connections_from_database() -> None:
    """Let hooks find connections in Airflow's database as well, as ``airflow connections test`` does."""
    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"
