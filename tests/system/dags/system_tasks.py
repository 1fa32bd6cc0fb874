"""DAGs of the system tests for work that is no Python function."""

from airflow.sdk import dag, task

from airflow_provider_panda.operators.task import PandaTaskOperator
from airflow_provider_panda.sensors.task import PandaTaskSensor


@dag(schedule=None)
def system_tasks():
    """A shell command with outputs, a sensor on its task, and a task from a parameter map that uses its value."""
    made = PandaTaskOperator(
        task_id="count",
        command="""
            # the day of the run is {{ run_id }}
            echo "$PANDA_JOB times ten is $((PANDA_JOB * 10))" > counted.txt
        """,
        outputs=["counted.txt"],
        n_jobs=3,
    )
    seen = PandaTaskSensor(task_id="see", panda_task_id=made.output, states=["done"])
    mapped = PandaTaskOperator(
        task_id="map",
        task_parameters={
            "taskName": "user.me.{{ ti.xcom_pull('see')['task_id'] }}",
            "jobParameters": [{"type": "constant", "value": "test 3 = {{ ti.xcom_pull('see')['files']['finished'] }}"}],
        },
    )

    @task
    def tell(value):
        return sorted(value)

    tell(made.output)
    made >> seen >> mapped


@dag(schedule=None)
def system_tasks_fail():
    """A command that fails, an output that is not made, and a task that is waited for too short a time."""
    PandaTaskOperator(task_id="fails", command="echo the beam is off >&2; exit 7", max_attempt=1)
    PandaTaskOperator(task_id="makes_nothing", command="true", outputs="nothing.root", max_attempt=1)
    slow = PandaTaskOperator(task_id="slow", command="sleep 40")
    early = PandaTaskSensor(task_id="early", panda_task_id="{{ ti.xcom_pull('submitted') }}", timeout=5, soft_fail=True)

    @task
    def submitted(ti=None):
        """Return the id of the task that is being waited for elsewhere."""
        import time

        while (task_id := ti.xcom_pull("slow", key="panda_task_id")) is None:
            time.sleep(0.5)
        return task_id

    submitted() >> early
    slow  # noqa: B018 - a task of its own


system_tasks()
system_tasks_fail()
