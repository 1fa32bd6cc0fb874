"""What ends in the triggerer, and what a worker resumes because somebody asks for one."""

from pathlib import Path

from airflow.sdk import Asset, Param, dag, task

PYTHON = {"python": "@WORKER_PYTHON@"}
MADE = Asset("system_endings_made")


def note_success(context):
    Path(context["params"]["noted"], context["ti"].task_id).touch()


@dag(schedule=None, params={"noted": Param("", type="string")})
def system_endings():
    """Calls whose values and side effects are the same wherever they end."""

    @task.panda(environment=PYTHON)
    def measure(number=1):
        return {"mass": 125.25, "tags": ["gg", None], "number": number}

    @task.panda(environment=PYTHON, map_over="number")
    def double(number):
        return 2 * number

    @task.panda(environment=PYTHON)
    def nothing():
        return None

    @task.panda(environment=PYTHON, multiple_outputs=True)
    def outputs():
        return {"mass": 125.25}

    @task.panda(environment=PYTHON)
    def pair():
        return (1, 2)

    @task
    def received(measured, doubled, nothing):
        return [type(measured).__name__, measured, doubled, nothing]

    @task
    def each(number):
        return number + 1

    received(measure.override(task_id="plain")(), double.override(task_id="mapped")(number=[1, 2, 3]), nothing())
    pair()
    measure.override(task_id="callback", on_success_callback=note_success)()
    measure.override(task_id="outlet", outlets=[MADE])()
    outputs()
    each.expand(number=double.override(task_id="mapped_over")(number=[5, 6]))


system_endings()
