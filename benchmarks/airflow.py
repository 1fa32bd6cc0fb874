"""What this provider adds to Airflow: 60 functions on the grid, against 60 bare deferrable tasks.

Real Airflow processes (scheduler with LocalExecutor, parallelism 4, API server, DAG processor, triggerer; SQLite), a
real ActiveMQ, and two DAGs of 60 independent tasks, run in turns:

* bare: an operator that defers to a timer and returns a number when it is resumed (``deferral.py``);
* ours: ``@task.panda`` on a function that returns its argument; its result comes when the timer of a bare one fires.

What is simulated: the worker nodes. The embedded grid takes archives and tasks as ever, but has no slots
(``--slots 0``); a node here, one thread, answers each task that the grid has taken with the signed result that a job
would publish, on the broker, ``--wait`` seconds after its submission. 60 job processes on this machine's cores would be
the grid's time and not ours. The server's own time stays in, since it shares the cores; the table says how much.

``[panda] settle_time`` has its default of 5 s and matters to nothing here: no result comes before ``--wait`` (6 s), as
on no grid. A bare task waits as long from its deferral. Everything else is as ``demo/airflow.py`` sets it for both.

Wall time is that of the DAG run, as the scheduler notes it. CPU of workers: the LocalExecutor's processes are children
of the scheduler, and each task process is a child of one of them, reaped when it ends. A process that is reaped adds
its whole time to its parent's times of children (wait4(2)), so the sum of own and children's times over the scheduler's
living descendants, with the children's times of the scheduler, holds every second that any of them has spent, whether
it lives or not. It is read before a run, and after it when all workers are idle again. The only other descendant of the
scheduler, the server of log files, does nothing meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import sqlite3
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

if __name__ == "__main__":
    sys.path.pop(0)  # this folder, where airflow.py would be taken for Airflow
sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil

from airflow_provider_panda.payload import envelope, publish
from airflow_provider_panda.payload.delivery import broker_settings
from benchmarks.installation import SECRET, Installation, installed
from benchmarks.report import Target, finish, print_table, spread
from demo.processes import Process

TARGETS: Final = (Target(key="wall_ratio", limit=1.15), Target(key="cpu_ratio", limit=1.3))
RUN_LIMIT: Final = 200.0
"""Seconds after which a DAG run is given up."""

BARE: Final = """
from airflow.sdk import dag
from benchmarks.deferral import BareDeferrable


@dag(dag_id="{dag_id}", schedule=None)
def functions():
    for number in range({tasks}):
        BareDeferrable(task_id=f"call_{{number}}", wait={wait})


functions()
"""

OURS: Final = """
from airflow.sdk import dag, task


@task.panda
def no_op(number):
    return number


@dag(dag_id="{dag_id}", schedule=None)
def functions():
    for number in range({tasks}):
        no_op.override(task_id=f"call_{{number}}")(number)


functions()
"""

WHO: Final = {"bare": BARE, "ours": OURS}
WARM_UP: Final = 4
"""Tasks of the first run of each kind, which is not measured."""


# --- the node -----------------------------------------------------------------------------------------------


class Node:
    """Answers for the jobs of every task that the grid takes.

    :param installation: where the tasks and the broker are.
    :param wait: seconds from a task's submission to its result.
    """

    LOOK_EVERY: Final = 0.1
    """Seconds between two looks at the grid's tasks."""

    ONCE_MORE: Final = 15.0
    """Seconds after which a result is sent again, for a trigger that was not up in time; a second copy is ignored."""

    def __init__(self, installation: Installation, *, wait: float) -> None:
        self._file = installation.grid.folder / "data" / "grid.sqlite"
        self._settings = broker_settings(installation.endpoint)
        self._wait = wait
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="node", daemon=True)
        self.failures: list[str] = []

    def __enter__(self) -> Node:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        due: list[tuple[float, str]] = []
        newest = 0
        with contextlib.closing(sqlite3.connect(f"file:{self._file}?mode=ro", uri=True)) as tasks:
            while not self._ended.wait(self.LOOK_EVERY):
                for task_id, name, created in tasks.execute(
                    "SELECT task_id, name, created FROM tasks WHERE task_id > ? ORDER BY task_id", (newest,)
                ):
                    newest, key = task_id, name.rpartition("-")[2]
                    due += [(created + self._wait, key), (created + self._wait + self.ONCE_MORE, key)]
                now = time.time()
                for _, key in sorted(each for each in due if each[0] <= now):
                    self._answer(key)
                due = [each for each in due if each[0] > now]

    def _answer(self, key: str) -> None:
        """Publish what a job's runner would."""
        now = time.time()
        report = {
            "task_key": key, "job": 0, "attempt": 1, "status": envelope.RETURNED, "encoding": "json", "payload": 1,
            "exception": None, "start": now, "end": now, "host": "node", "site": "LOCAL", "panda_id": None,
            "python": "3.11",
        }  # fmt: skip
        signed = envelope.sign(report, envelope.derive_key(SECRET, key))
        headers, body = envelope.message(report, signed, name="no_op")
        outcome = publish.publish(self._settings, headers, body)
        if not outcome.ok:
            self.failures.append(f"{key}: {outcome.problem}")


# --- what is measured ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One DAG run; seconds.

    :param wall: from its start to its end.
    :param cpu: CPU time meanwhile, by who spent it: workers, each of Airflow's components, the grid, the broker.
    """

    wall: float
    cpu: dict[str, float]


def spent(process: Any, *, own: bool = True) -> float:
    """Return the CPU seconds of a process and of all its descendants, whether they live or have been reaped.

    :param own: whether the process's own time counts, or only that of its descendants.
    """
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            total += times.children_user + times.children_system
            if own or each.pid != process.pid:
                total += times.user + times.system
    return total


def cpu_now(installation: Installation) -> dict[str, float]:
    """Return the CPU seconds that each part has spent so far."""
    airflow: dict[str, Process] = installation.airflow.processes
    scheduler = psutil.Process(airflow["scheduler"].pid)
    workers = spent(scheduler, own=False)
    rest = {
        "API server": spent(psutil.Process(airflow["api-server"].pid)),
        "triggerer": spent(psutil.Process(airflow["triggerer"].pid)),
        "DAG processor": spent(psutil.Process(airflow["dag-processor"].pid)),
        "embedded grid's server": spent(psutil.Process(installation.grid.process.pid)),
        "ActiveMQ": spent(psutil.Process(installation.broker.pid)),
    }
    return {"workers": workers, "scheduler": spent(scheduler) - workers, **rest}


def idle(installation: Installation) -> bool:
    """Whether no worker has a task; a LocalExecutor's worker says so in its title."""
    titles = []
    for process in psutil.Process(installation.airflow.processes["scheduler"].pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            titles.append(" ".join(process.cmdline()).strip())
    working = [title for title in titles if title.startswith("airflow worker") and not title.endswith("<idle>")]
    return not working


def run_dag(installation: Installation, dag_id: str) -> Run:
    """Run a DAG, and return what it took."""
    airflow = installation.airflow
    wait_until_idle(installation)
    before = cpu_now(installation)
    run_id = airflow.trigger(dag_id)
    state = airflow.wait_for_run(dag_id, run_id, timeout=RUN_LIMIT)
    wait_until_idle(installation)
    after = cpu_now(installation)
    if state != "success":
        raise RuntimeError(f"{dag_id} {run_id} is {state}: {airflow.states(dag_id, run_id)}")
    times = airflow.get(f"/dags/{dag_id}/dagRuns/{run_id}")
    wall = datetime.fromisoformat(times["end_date"]) - datetime.fromisoformat(times["start_date"])
    return Run(wall=wall.total_seconds(), cpu={who: after[who] - before[who] for who in after})


def wait_until_idle(installation: Installation) -> None:
    """Wait until no worker has a task any more."""
    end = time.monotonic() + 60
    while not idle(installation):
        if time.monotonic() > end:
            raise TimeoutError("a worker is not idle a minute after its DAG run")
        time.sleep(0.2)


def in_turns(installation: Installation, rounds: int) -> dict[str, list[Run]]:
    """Return the runs of both, taken in turns after a small one of each."""
    runs: dict[str, list[Run]] = {who: [] for who in WHO}
    installation.airflow.wait_for_dags([f"{who}{suffix}" for who in WHO for suffix in ("", "_warm_up")])
    for who in WHO:
        run_dag(installation, f"{who}_warm_up")
    for number in range(rounds):
        for who in WHO:
            run = run_dag(installation, who)
            runs[who].append(run)
            print(f"round {number + 1}, {who}: {run.wall:.1f} s, CPU {run.cpu['workers']:.1f} s", file=sys.stderr)
    return runs


# --- what is told -------------------------------------------------------------------------------------------


def figures(runs: dict[str, list[Run]]) -> dict[str, Any]:
    """Return what the last line says: ratios of medians, ours to bare."""
    wall = {who: statistics.median(run.wall for run in of) for who, of in runs.items()}
    cpu = {who: statistics.median(run.cpu["workers"] for run in of) for who, of in runs.items()}
    return {
        "wall_ratio": round(wall["ours"] / wall["bare"], 3),
        "cpu_ratio": round(cpu["ours"] / cpu["bare"], 3),
        "wall_s": {who: round(seconds, 2) for who, seconds in wall.items()},
        "worker_cpu_s": {who: round(seconds, 2) for who, seconds in cpu.items()},
    }


def rows(runs: dict[str, list[Run]]) -> Iterator[tuple[str, ...]]:
    """Return the rows of the table."""

    def row(name: str, bare: Sequence[float], ours: Sequence[float]) -> tuple[str, ...]:
        least = min(statistics.median(bare), statistics.median(ours))
        ratio = f"{statistics.median(ours) / statistics.median(bare):.2f}" if least >= 0.5 else ""
        return name, spread(bare), spread(ours), ratio

    yield row("DAG run, wall", *([run.wall for run in runs[who]] for who in WHO))
    for part in runs["bare"][0].cpu:
        yield row(f"CPU of the {part}", *([run.cpu[part] for run in runs[who]] for who in WHO))


def main() -> None:
    """Measure, print a table, and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each DAG (default: %(default)s)")
    parser.add_argument("--tasks", type=int, default=60, help="tasks of each DAG (default: %(default)s)")
    parser.add_argument(
        "--wait", type=float, default=6.0, metavar="SECONDS", help="time that each task waits (default: %(default)s)"
    )
    options = parser.parse_args()
    dags = {
        f"{who}{suffix}.py": text.format(dag_id=f"{who}{suffix}", tasks=tasks, wait=options.wait)
        for who, text in WHO.items()
        for suffix, tasks in (("", options.tasks), ("_warm_up", WARM_UP))
    }
    with (
        installed(dags, grid_arguments=["--slots", "0"]) as installation,
        Node(installation, wait=options.wait) as node,
    ):
        runs = in_turns(installation, options.rounds)
    if node.failures:
        raise RuntimeError(f"results were not published: {node.failures}")
    print_table((f"seconds, median (least-most) of {options.rounds}", "bare", "ours", "ratio"), list(rows(runs)))
    told = {**figures(runs), "tasks": options.tasks, "rounds": options.rounds, "wait_s": options.wait}
    finish(told, TARGETS)


if __name__ == "__main__":
    main()
