"""Hears that a component of Airflow starts, and imports for it what each process that it forks would import again.

The scheduler's LocalExecutor forks a process for each leg of each task, the DAG processor one for each parse of a file:
60 ms of imports in each of them, where Airflow's own share of a task is about as much (benchmarks/airflow.py). A task's
process hears of its own start as well, and imports nothing here: its DAG may be of others.
"""

from __future__ import annotations

import importlib
import logging
import sys
from typing import Any, Final

from airflow.listeners import hookimpl

log = logging.getLogger(__name__)

MODULES: Final = (
    "airflow.sdk.definitions.decorators",  # what `task` of airflow.sdk is
    "airflow_provider_panda.decorators",
    "airflow_provider_panda.grid.panda",
    "airflow_provider_panda.operators.homecoming",
    "airflow_provider_panda.operators.kept",
    "airflow_provider_panda.triggers.function",
    "anyio._backends._asyncio",  # what httpx has its sockets from
)
"""What a DAG file with ``@task.panda`` and a submission import; but panda-client, which looks at the environment."""


@hookimpl
def on_starting(component: Any) -> None:
    """Import ahead of the forks of a scheduler, a DAG processor or a triggerer."""
    jobs = sys.modules.get("airflow.jobs.job")
    if jobs is None or not isinstance(component, jobs.Job):
        return
    for module in MODULES:
        try:
            importlib.import_module(module)
        except Exception as error:
            # Whoever uses it is told; a component of Airflow starts without it.
            log.info("%s is not imported ahead: %s", module, error)
