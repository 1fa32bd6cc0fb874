"""DAGs of the system tests: each shows one thing that the tests look at."""

import dataclasses
import datetime
import decimal
import time
from pathlib import Path
from zoneinfo import ZoneInfo

from airflow.sdk import Param, dag, task

PYTHON = {"python": "@WORKER_PYTHON@"}
UNIT = "GeV"


def describe(mass):
    return f"{mass} {UNIT}"


@dag(schedule=None, render_template_as_native_obj=True)
def system_values():
    """Values of every type that travels come back equal in type and value."""

    @task.panda(environment=PYTHON)
    def make():
        import numpy as np
        import pandas as pd

        return {
            "tuple": (1, (2, "three")),
            "set": {1, 2, 3},
            "frozenset": frozenset({"a"}),
            "bytes": b"\x00\xff raw",
            "complex": 1 + 2j,
            "decimal": decimal.Decimal("1.10"),
            "datetime": datetime.datetime(2026, 11, 22, 17, 30, 1, 5, tzinfo=ZoneInfo("Europe/Paris")),
            "int keys": {1: {2: "x"}, (3, 4): None},
            "nan": float("nan"),
            "inf": -float("inf"),
            "array": np.arange(6, dtype="float32").reshape(2, 3),
            "frame": pd.DataFrame({"pt": [1.5, 2.5], "tag": ["a", "b"]}, index=[10, 20]),
            "plain": [1, 2.5, "x", None, True, {"k": [1]}],
        }

    @task
    def compare(ti=None):
        # Pulled, not passed: Airflow itself cannot show NaN among a task's rendered arguments.
        import math

        import numpy as np
        import pandas as pd

        def same(a, b):
            if type(a) is not type(b):
                return False
            if isinstance(a, float) and math.isnan(a):
                return math.isnan(b)
            if isinstance(a, np.ndarray):
                return a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
            if isinstance(a, pd.DataFrame):
                pd.testing.assert_frame_equal(a, b)
                return True
            return a == b

        came = ti.xcom_pull(task_ids="make")
        wanted = make.function()
        assert came["datetime"].tzinfo.key == "Europe/Paris"
        return {"different": [k for k in wanted if not same(wanted[k], came.get(k))], "compared": len(wanted)}

    make() >> compare()


@dag(schedule=None, render_template_as_native_obj=True)
def system_mapped():
    """One task, N jobs; partial failures as values; nothing for an empty list; a helper of the DAG file."""

    @task.panda(map_over="mass")
    def label(mass, prefix="m"):
        return f"{prefix}={describe(mass)}"

    @task.panda(map_over="n", on_job_error="collect", min_success=0.5)
    def odd_ones_fail(n):
        if n % 2:
            raise ValueError(f"{n} is odd")
        return n * n

    @task.panda(map_over="mass")
    def nothing(mass):
        return mass

    @task.panda
    def one_each(x):
        return x + 1

    @task.panda
    def two_outputs() -> dict[str, int]:
        return {"low": 1, "high": 2}

    @task
    def describe_failures(results):
        return [r if isinstance(r, int) else f"{type(r).__name__} {r.job} {r.type}: {r.message}" for r in results]

    @task
    def add(a, b):
        return a + b

    label(mass=[125, 91, 80], prefix="{{ params.prefix }}")
    describe_failures(odd_ones_fail(n=[0, 1, 2, 3]))
    nothing(mass=[])
    one_each.expand(x=[1, 2, 3])
    outputs = two_outputs()
    add(outputs["low"], outputs["high"])


system_values()
system_mapped()


@dag(schedule=None, params={"prefix": "m"})
def system_raises():
    """A function that raises on the grid fails its task, which follows its retries."""

    @task.panda(retries=1, retry_delay=datetime.timedelta(seconds=1))
    def broken(n):
        def deeper(m):
            return 1 / m

        return deeper(n)

    broken(0)


@dag(schedule=None, params={"go": Param("", type="string")})
def system_fifty():
    """Fifty functions that wait until a file appears."""

    @task.panda
    def wait_for_file(number, path):
        from time import monotonic, sleep

        end = monotonic() + 240
        while not Path(path).exists():
            if monotonic() > end:
                raise TimeoutError(path)
            sleep(0.5)
        return number

    wait_for_file.partial(path="{{ params.go }}").expand(number=list(range(50)))


@dag(schedule=None)
def system_long():
    """A function that runs until it is killed."""

    @task.panda
    def sleep_long():
        time.sleep(600)

    sleep_long()


@dag(schedule=None)
def system_deadline():
    """A function that does not end before its deadline."""

    @task.panda(deadline=8)
    def too_slow():
        time.sleep(600)

    too_slow()


@dag(schedule=None)
def system_unknown_queue():
    """A task that no queue takes: PanDA leaves it pending, and says why in HTML."""

    @task.panda(queue="NO_SUCH_SITE", execution_timeout=datetime.timedelta(seconds=15))
    def anywhere():
        return 1

    anywhere()


@dag(schedule=None)
def system_unfit():
    """Functions that cannot run or whose value cannot travel, each with its reason."""

    @task.panda(max_attempt=1, environment={"python": "@BARE_PYTHON@"})
    def needs_numpy():
        import numpy

        return float(numpy.pi)

    @task.panda
    def returns_a_socket():
        import socket

        return {"points": [1, socket.socket()]}

    @task.panda
    def returns_too_much():
        return "x" * 300_000

    needs_numpy()
    returns_a_socket()
    returns_too_much()


@dag(schedule=None)
def system_big():
    """Results that are together too many bytes for a trigger event."""

    @task.panda(map_over="n")
    def big(n):
        return f"{n}" * 20_000

    @task
    def check(texts):
        return [len(set(text)) == 1 and text[0] == str(i) and len(text) == 20_000 for i, text in enumerate(texts)]

    check(big(n=list(range(6))))


@dataclasses.dataclass
class Cut:
    """A class of the DAG file that an argument is an instance of."""

    name: str
    value: float


@dag(schedule=None)
def system_arguments():
    """An argument whose class is defined in the DAG file."""

    @task.panda
    def apply(cut: Cut):
        return f"{cut.name} > {cut.value}"

    apply(Cut("pt", 25.0))


system_raises()
system_fifty()
system_long()
system_deadline()
system_unknown_queue()
system_unfit()
system_big()
system_arguments()
