"""Kill grid tasks that nobody waits for, every hour. Optional, and paused until it is switched on.

It needs a connection ``airflow_api`` (type http) to this Airflow's own API server; docs/operations.md says which.
"""

import datetime

from airflow.sdk import dag

from airflow_provider_panda.operators.reap import PandaReapOperator


@dag(
    schedule="@hourly",
    start_date=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=True,
    tags=["panda"],
)
def panda_maintenance():
    """Find and kill orphans of this Airflow."""
    PandaReapOperator(task_id="reap", retries=2, retry_delay=datetime.timedelta(minutes=5))


panda_maintenance()
