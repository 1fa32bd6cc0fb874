"""What the package costs whoever reads a DAG file: its import, and the parse of a file of 100 of its tasks.

Compared, all in fresh interpreters and in turns, with no cache of an earlier turn but Python's own .pyc files:

* the import of ``airflow_provider_panda.decorators`` after ``airflow.sdk``, with ``airflow.sdk`` alone;
* the parse of a file of 100 functions with ``@task.panda``, with the same file with ``@task``. Both as Airflow's dag
  processor does it (``airflow.dag_processing.processor._parse_file``: module, checks, serialization), from the moment
  at which it forks: what Airflow itself has imported by then is not in it, what the file makes it import is. So the
  import above is in each parse of ours.

Airflow's own components have the package imported before they fork (``listeners/component.py``), which is left out
here: this is what it costs a process of its own, such as a worker's pod or ``airflow dags list``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

if __name__ == "__main__":
    sys.path.pop(0)  # this folder, where airflow.py would be taken for Airflow
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import bytecode
from benchmarks.report import Target, finish, print_table, spread
from demo.processes import environment

TARGETS: Final = (Target(key="import_extra_s", limit=0.3), Target(key="parse_ratio", limit=1.5))

IMPORT: Final = """
import json, time
from airflow.sdk import dag, task
began = time.perf_counter()
import airflow_provider_panda.decorators
print(json.dumps({"import": time.perf_counter() - began}))
"""

PARSE: Final = """
import gc, json, sys, time
from pathlib import Path
import structlog
from airflow.dag_processing import processor
from airflow.sdk.execution_time import task_runner
path = Path(sys.argv[1])
log = structlog.get_logger()
processor._pre_import_airflow_modules(str(path), log)
request = processor.DagFileParseRequest(file=str(path), bundle_path=path.parent, bundle_name="dags-folder")
gc.collect()
gc.freeze()  # as the dag processor does before it forks
began = time.perf_counter()
result = processor._parse_file(request, log)
seconds = time.perf_counter() - began
assert not result.import_errors, result.import_errors
tasks = [len(each.data["dag"]["tasks"]) for each in result.serialized_dags]
print(json.dumps({"parse": seconds, "tasks": tasks}))
"""

BODY: Final = '''
    @{decorator}
    def scan_{number}(points: int, width: float = 1.0) -> dict[str, float]:
        """Add up a row of numbers."""
        total = 0.0
        for point in range(points):
            total += math.sqrt(point * width)
        return {{"total": total, "offset": OFFSET}}
'''


def dag_file(decorator: str, tasks: int) -> str:
    """Return the text of a DAG file.

    :param decorator: what makes tasks of its functions, such as ``task.panda``.
    :param tasks: number of functions, each called once.
    """
    functions = "".join(BODY.format(decorator=decorator, number=number) for number in range(tasks))
    calls = "".join(f"    scan_{number}({number})\n" for number in range(tasks))
    head = (
        "import math\n\nfrom airflow.sdk import dag, task\n\nOFFSET = 0.5\n\n\n@dag(schedule=None)\ndef many() -> None:"
    )
    return f"{head}{functions}\n{calls}\n\nmany()\n"


def run(program: str, *arguments: str, home: Path) -> dict[str, Any]:
    """Run a program in a fresh interpreter, and return the JSON object of its last line.

    :param home: Airflow's home.
    """
    env = environment(
        **bytecode.KEPT,
        AIRFLOW_HOME=str(home),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__CORE__DAGS_FOLDER=str(home),
        AIRFLOW__CORE__UNIT_TEST_MODE="False",
        AIRFLOW__LOGGING__LOGGING_LEVEL="ERROR",
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=env, capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode:
        raise RuntimeError(f"it ended with {done.returncode}:\n{done.stderr[-3000:]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def in_turns(rounds: int, measurements: Sequence[Callable[[], float]]) -> list[list[float]]:
    """Return the figures of each measurement, taken in turns; one turn before that fills the .pyc files."""
    for measure in measurements:
        measure()
    taken: list[list[float]] = [[] for _ in measurements]
    for _ in range(rounds):
        for measure, into in zip(measurements, taken, strict=True):
            into.append(measure())
    return taken


def figures(extra: Sequence[float], plain: Sequence[float], ours: Sequence[float], *, tasks: int) -> dict[str, Any]:
    """Return what the last line says; seconds.

    :param extra: seconds of the package's import.
    :param plain: seconds of the parses with ``@task``.
    :param ours: seconds of the parses with ``@task.panda``.
    """
    middle = {name: statistics.median(of) for name, of in (("extra", extra), ("plain", plain), ("ours", ours))}
    return {
        "import_extra_s": round(middle["extra"], 4),
        "parse_ratio": round(middle["ours"] / middle["plain"], 3),
        "parse_plain_s": round(middle["plain"], 4),
        "parse_ours_s": round(middle["ours"], 4),
        "parse_extra_ms_per_task": round((middle["ours"] - middle["plain"] - middle["extra"]) / tasks * 1000, 3),
        "tasks": tasks,
        "rounds": len(ours),
    }


def main() -> None:
    """Measure, print a table, and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each kind (default: %(default)s)")
    parser.add_argument("--tasks", type=int, default=100, help="tasks of the DAG file (default: %(default)s)")
    options = parser.parse_args()

    home = Path(tempfile.mkdtemp(prefix="benchmark-parse-"))
    try:
        plain, ours = home / "plain.py", home / "ours.py"
        plain.write_text(dag_file("task", options.tasks))
        ours.write_text(dag_file("task.panda", options.tasks))

        def parse(file: Path) -> Callable[[], float]:
            def measure() -> float:
                told = run(PARSE, str(file), home=home)
                assert told["tasks"] == [options.tasks], told
                return float(told["parse"])

            return measure

        taken = in_turns(options.rounds, [lambda: float(run(IMPORT, home=home)["import"]), parse(plain), parse(ours)])
    finally:
        shutil.rmtree(home, ignore_errors=True)

    print_table(
        ("seconds, median (least-most)", f"of {options.rounds}"),
        [
            ("import of the package, after airflow.sdk", spread(taken[0], digits=3)),
            (f"parse of {options.tasks} tasks with @task", spread(taken[1], digits=3)),
            (f"parse of {options.tasks} tasks with @task.panda", spread(taken[2], digits=3)),
        ],
    )
    finish(figures(*taken, tasks=options.tasks), TARGETS)


if __name__ == "__main__":
    main()
