"""DAGs of the test of reaping: one whose task waits, one that ends at once, one that reaps from a worker."""

import time

from airflow.sdk import dag, task

from airflow_provider_panda.operators.reap import PandaReapOperator


@dag(schedule=None)
def system_reap_waits():
    """A function that runs until it is killed."""

    @task.panda
    def sleep_long():
        time.sleep(900)

    sleep_long()


@dag(schedule=None)
def system_reap_ended():
    """A task instance that is over."""

    @task
    def ends():
        return 1

    ends()


@dag(schedule=None)
def system_reap():
    """The reaper of the maintenance DAG, without grace."""
    PandaReapOperator(task_id="reap", grace=0)


system_reap_waits()
system_reap_ended()
system_reap()
