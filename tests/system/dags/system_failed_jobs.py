"""A mapped call of which some jobs fail at first: a retry sends only those."""

import datetime

from airflow.sdk import Param, dag, task


@dag(schedule=None, params={"folder": Param("", type="string")})
def system_failed_jobs():
    """Each job leaves a file per execution; job 2 fails twice, job 4 once."""

    @task.panda(
        map_over="n",
        retry="failed_jobs",
        retries=2,
        retry_delay=datetime.timedelta(seconds=1),
        max_attempt=1,
        environment={"python": "@WORKER_PYTHON@"},
    )
    def measure(n, folder):
        import uuid
        from pathlib import Path

        (Path(folder) / f"{n}_{uuid.uuid4()}").touch()
        if len(list(Path(folder).glob(f"{n}_*"))) <= {2: 2, 4: 1}.get(n, 0):
            raise RuntimeError(f"{n} fails")
        return n * 10

    @task
    def total(values):
        return sum(values)

    total(measure(n=list(range(6)), folder="{{ params.folder }}"))


system_failed_jobs()
