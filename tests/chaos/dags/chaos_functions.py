"""DAGs of the chaos suite: grid functions whose every value tests/chaos/workload.py can tell in advance.

Words in capitals between at-signs are filled in when the file is copied.
"""

import time
from pathlib import Path

from airflow.sdk import dag, task

PYTHON = {"python": "@WORKER_PYTHON@"}
MARKS = "@MARKS@"
N = list(range(int("@JOBS@")))
PATIENT = {"retries": 40, "retry_delay": 2}


def first_time(*words):
    """Tell whether nothing has asked this before, on any attempt and any try."""
    try:
        Path(MARKS, "-".join(map(str, words))).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def worth(run, name, n):
    """Return what a job is to bring home; no two jobs of a whole run of the suite have the same."""
    return [run, name, n, n * n + len(run)]


@dag(schedule=None, max_active_runs=100, default_args=PATIENT)
def chaos():
    @task.panda(environment=PYTHON)
    def single(run):
        return worth(run, "single", 0)

    @task.panda(environment=PYTHON, map_over="n")
    def spread(run, n):
        return worth(run, "spread", n)

    @task.panda(environment=PYTHON, map_over="n")
    def slow(run, n):
        time.sleep(4 + 4 * (n % 4))
        return worth(run, "slow", n)

    @task.panda(environment=PYTHON, map_over="n")
    def large(run, n):
        # Together more than the 64 KiB of a trigger's event: the worker reads PanDA's record.
        return [*worth(run, "large", n), f"{n:04d}" * 4096]

    @task.panda(environment=PYTHON, map_over="n", retry_on_exception=True, max_attempt=6)
    def raises_once(run, n):
        if n % 2 == 0 and first_time(run, "raises_once", n):
            raise RuntimeError(f"the first attempt of {n}")
        return worth(run, "raises_once", n)

    @task.panda(environment=PYTHON, max_attempt=1)
    def fails_once(run):
        if first_time(run, "fails_once"):
            raise RuntimeError("the first try")
        return worth(run, "fails_once", 0)

    @task
    def total(values):
        return [len(values), sum(value[3] for value in values)]

    run = "{{ run_id }}"
    single(run)
    total(spread(run, n=N))
    slow(run, n=N)
    large(run, n=N)
    raises_once(run, n=N)
    fails_once(run)


@dag(schedule=None, max_active_runs=100, default_args=PATIENT)
def chaos_idds():
    @task.panda(panda_conn_id="panda_idds", environment=PYTHON)
    def through(run):
        return worth(run, "through", 0)

    @task.panda(panda_conn_id="panda_idds", environment=PYTHON, map_over="n")
    def through_many(run, n):
        time.sleep(n % 3)
        return worth(run, "through_many", n)

    @task
    def total(values):
        return [len(values), sum(value[3] for value in values)]

    run = "{{ run_id }}"
    through(run)
    total(through_many(run, n=N))


chaos()
if "@IDDS@" == "yes":
    chaos_idds()
