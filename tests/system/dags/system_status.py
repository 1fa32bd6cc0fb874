"""A function that ends when a test says so, for what is told of those who wait meanwhile."""

from pathlib import Path

from airflow.sdk import Param, dag, task


@dag(schedule=None, params={"go": Param("", type="string")})
def system_status():
    """Waits for a file."""

    @task.panda(deadline=240)
    def until_told(path):
        from time import sleep

        while not Path(path).exists():
            sleep(0.2)
        return "told"

    until_told("{{ params.go }}")


system_status()
