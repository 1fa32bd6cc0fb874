"""Run the ttH optimisation on an embedded grid and a private Airflow; ``DEMO_EXIT=1`` ends when it is done."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from airflow_provider_panda.exceptions import GridError
from airflow_provider_panda.grid.endpoint import AuthKind, PandaEndpoint
from airflow_provider_panda.grid.panda import PandaGrid
from airflow_provider_panda.grid.task import TaskStatus
from demo.airflow import OVER, Airflow
from demo.grid import Grid

ROOT = Path(__file__).parents[1]
DATA = ROOT / ".demo"
DAG = "tth_hpo"
TIMEOUT = 420.0
"""Seconds that the DAG run may take."""


def main() -> int:
    """Run the demonstration and return its exit code."""
    signal.signal(signal.SIGTERM, _end)
    began = time.monotonic()
    shutil.rmtree(DATA, ignore_errors=True)
    with contextlib.ExitStack() as services:
        say("starting the embedded grid: a PanDA server, a STOMP broker, workers")
        grid = Grid(DATA / "grid", ["--slots", str(os.cpu_count() or 2), "--queue-delay", "2"])
        services.callback(grid.stop)
        say(f"PanDA at {grid.url}")
        say("starting Airflow (half a minute)")
        airflow = Airflow(DATA / "airflow", ROOT / "dags", settings={"TTH_PYTHON": sys.executable})
        services.callback(airflow.stop)
        airflow.start()
        connect(airflow, grid)
        airflow.wait_for_dags([DAG])
        run_id = airflow.trigger(DAG, {"output": str(DATA / "plots")})
        page = f"{airflow.url}/dags/{DAG}/runs/{run_id}"
        say(f"running DAG {DAG}: {page}")
        panda = grid_of(grid)
        state = watch(airflow, panda, run_id)
        tasks = panda.tasks()
        outcome = {
            "state": state,
            "best_auc": None,
            "grid_tasks": len(tasks),
            "grid_jobs": sum(task.jobs_total or 0 for task in tasks),
            "seconds": round(time.monotonic() - began, 1),
        }
        if state == "success":
            report = airflow.xcom(DAG, run_id, "report")
            outcome["best_auc"] = report["best_auc"]
            show(report, page, outcome)
        else:
            say(f"the run ended as {state}; task states: {airflow.states(DAG, run_id)}")
            say(f"logs: {DATA / 'airflow' / 'logs'}")
        if not os.environ.get("DEMO_EXIT"):
            say("the UI stays up until Ctrl-C")
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
            say("stopping")
    print(json.dumps(outcome), flush=True)
    return 0 if state == "success" else 1


def say(text: str) -> None:
    """Print a line of the story at once."""
    print(f"demo: {text}", flush=True)


def _end(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def connect(airflow: Airflow, grid: Grid) -> None:
    """Make both connections as a user does in the UI, then set the instance up by the command."""
    logins = grid.broker()
    host, _, port = grid.ready["stomp"].rpartition(":")
    airflow.add_connection(
        "broker",
        "stomp",
        host=host,
        port=int(port),
        login=logins["login"],
        password=logins["passcode"],
        extra={"publisher_login": logins["publisher_login"], "publisher_password": logins["publisher_passcode"]},
    )
    airflow.add_connection(
        "panda_default",
        "panda",
        **grid.panda_fields(),
        extra={"auth": "token", "vo": "wlcg", "broker_conn_id": "broker", "monitor_url": grid.url},
    )
    for line in airflow.run("panda", "setup", "panda_default").splitlines():
        if line.startswith("panda_default"):
            say(line)


class Panda:
    """What the demonstration asks PanDA, through the provider's own client."""

    def __init__(self, grid: PandaGrid) -> None:
        self.grid = grid
        self.processing_type = ""

    def tasks(self) -> list[TaskStatus]:
        """Return the tasks of the demonstration's Airflow."""
        if not self.processing_type:
            names = [name for name in self.grid.secrets() if name.startswith("AIRFLOW_PANDA_")]
            self.processing_type = f"airflow-{names[0].removeprefix('AIRFLOW_PANDA_').lower()}"
        return self.grid.statuses(self.processing_type)


def grid_of(grid: Grid) -> Panda:
    """Return a client of the embedded grid."""
    return Panda(PandaGrid(PandaEndpoint(url=grid.url, auth=AuthKind.TOKEN, token=grid.token(), vo="wlcg")))


def watch(airflow: Airflow, panda: Panda, run_id: str) -> str:
    """Show a live progress line until the run is over; return its state."""
    live = sys.stdout.isatty()
    end = time.monotonic() + TIMEOUT
    last = ""
    while True:
        state = airflow.run_state(DAG, run_id)
        line = progress(panda, airflow.task_instances(DAG, run_id))
        if line != last:
            print(f"\r\033[K{line}" if live else line, end="" if live else "\n", flush=True)
            last = line
        if state in OVER or time.monotonic() > end:
            if live:
                print(flush=True)
            return state if state in OVER else "timeout"
        time.sleep(1)


def progress(panda: Panda, instances: list[dict[str, Any]]) -> str:
    """Return one line on grid jobs and Airflow tasks."""
    tasks: list[TaskStatus] = []
    with contextlib.suppress(GridError):
        tasks = panda.tasks()
    total = sum(task.jobs_total or 0 for task in tasks)
    finished = sum(task.jobs_finished or 0 for task in tasks)
    failed = sum(task.jobs_failed or 0 for task in tasks)
    states = Counter(str(each["state"]) for each in instances)
    waiting = [each["task_id"] for each in instances if each["state"] == "deferred"]
    words = [
        f"grid: {len(tasks)} task(s), {finished} of {total} job(s) finished" + (f", {failed} failed" if failed else "")
    ]
    words.append(f"Airflow: {states['success']} of {len(instances)} tasks done")
    if waiting:
        words.append("waiting without a worker: " + ", ".join(sorted(waiting)))
    return " | ".join(words)


def show(report: dict[str, Any], page: str, outcome: dict[str, Any]) -> None:
    """Print the result table, and where plot and run are."""
    print(f"\n{report['table']}\n")
    say(
        f"best AUC {report['best_auc']:.5f} after {report['evaluations']} evaluations; best of the first round "
        f"{report['first_round_best']:.5f}; default parameters {report['default_auc']:.5f}"
    )
    say(f"{outcome['grid_jobs']} grid jobs in {outcome['grid_tasks']} PanDA tasks, {outcome['seconds']} s in all")
    say(f"plot: {report['plot']}")
    say(f"run: {page}")


if __name__ == "__main__":
    sys.exit(main())
