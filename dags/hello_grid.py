"""The smallest grid DAG: one function runs as a job of a PanDA task, and Airflow prints what came back."""

from airflow.sdk import dag, task


@dag(tags=["panda", "example"])
def hello_grid():
    @task.panda
    def hello(name: str) -> str:
        import platform

        return f"Hello {name}, from Python {platform.python_version()} on {platform.node()}"

    @task
    def show(greeting: str) -> None:
        print(greeting)

    show(hello("grid"))


hello_grid()
