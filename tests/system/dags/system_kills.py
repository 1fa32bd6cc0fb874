"""DAGs of the tests of kills: functions that wait until a file appears, as many as the environment says."""

import datetime
import os
import time
from pathlib import Path

from airflow.sdk import Param, dag, task

from airflow_provider_panda.operators.function import PandaFunctionOperator

COUNT = int(os.environ.get("SYSTEM_KILLS", "10"))


@dag(schedule=None, params={"go": Param("", type="string")})
def system_kills():
    """Functions that wait until a file appears."""

    @task.panda
    def wait_for_file(number, path):
        from time import monotonic, sleep

        end = monotonic() + 900
        while not Path(path).exists():
            if monotonic() > end:
                raise TimeoutError(path)
            sleep(1)
        return number

    wait_for_file.partial(path="{{ params.go }}").expand(number=list(range(COUNT)))


@dag(schedule=None)
def system_kills_deleted():
    """A DAG that is deleted while its tasks wait."""

    @task.panda
    def sleep_long(number):
        time.sleep(900)

    sleep_long.expand(number=[0, 1, 2])


def sleep_long():
    time.sleep(900)


class SlowToDefer(PandaFunctionOperator):
    """Hangs between submission and deferral, as where Airflow's API does not answer."""

    def execute(self, context):
        from airflow_provider_panda.operators import submission

        submission.tell_submission = lambda *args, **kwargs: time.sleep(300)
        return super().execute(context)


@dag(schedule=None)
def system_kills_timeout():
    """Two tasks whose execution_timeout ends them: one while it waits, one in the worker that submits it."""
    limit = datetime.timedelta(seconds=12)
    PandaFunctionOperator(task_id="waits", python_callable=sleep_long, execution_timeout=limit)
    SlowToDefer(task_id="submits", python_callable=sleep_long, execution_timeout=limit)


system_kills()
system_kills_deleted()
system_kills_timeout()
