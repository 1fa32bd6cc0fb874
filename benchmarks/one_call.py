"""One function in a real Airflow, from its operator's start to its XCom: each stop's seconds, and their floor.

Two DAGs of one task, in turns: ``@task.panda`` with a function that returns the time of its first line, and a bare
deferrable operator (``deferral.py``). Where the stamps come from, all by one machine's clock:

=====================  ===========================================================================================
the operator starts    a line that ``pre_execute`` writes into the task's log; the log's lines have their times
packed, submitted      the operator's own lines in that log
the job starts         the job's ``setup`` line, which leaves the time in the environment
the function           its value: the time that it found there, and those of its own first and last line
the trigger has it     the line that the triggerer writes into the task's log when a trigger fires
XCom                   ``timestamp`` of the XCom ``return_value`` in the REST API
=====================  ===========================================================================================

Of the bare call the first and the last two, taken in the same way.

The embedded grid is as fast as its options make it (all delays 0), but for one: a job waits ``GRID_DELAY`` seconds, so
that no result is there before ``[panda] settle_time`` (5 s) has passed. What it takes from the submission to the job's
start is the grid's and counts to nobody. The bare task waits as long by its timer, which is left out likewise.

Scheduler and triggerer look around about once a second, so a second of what follows a result is chance. Function and
timer take up to a second more, at random: else both kinds would come at a moment of that second that is always the
same.
"""

from __future__ import annotations

import json
import random
import re
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.installation import Installation
from demo.airflow import Airflow

GRID_DELAY: Final = 6.0
"""Seconds that a job waits on the grid, and that a bare task waits."""

GRID_ARGUMENTS: Final = (
    "--slots", "2", "--queue-delay", f"{GRID_DELAY:g}", "--register-delay", "0", "--report-delay", "0",
    "--finish-delay", "0",
)  # fmt: skip

SPACING: Final = 2.0
"""Seconds from the begin of one call to that of the next, a quarter more or less."""

NODE_PYTHON: Final = str(Path(sys.base_prefix, "bin", "python3"))
"""Interpreter of the jobs: a plain one, as on a worker node."""

STARTED: Final = "benchmark: the operator starts"
PACK: Final = "operator's start to the packed function"
SUBMIT: Final = "upload, look-up and submission"
GRID: Final = "the grid's own delays, to the job's start"
RUNNER: Final = "job's start to the function's first line"
MESSAGE: Final = "function's end to the fired trigger"
RESUME: Final = "fired trigger to XCom"

FIRED: Final = "Trigger fired event"
"""What Airflow's triggerer writes into a task's log."""

_HEAD: Final = f"""
import logging
from airflow.sdk import dag, task


def note(context):
    logging.getLogger("benchmark").info({STARTED!r})


"""

BARE: Final = (
    _HEAD
    + """
import random

from benchmarks.deferral import BareDeferrable


@dag(dag_id="bare", schedule=None)
def one():
    BareDeferrable(task_id="call", wait={wait} + random.random(), pre_execute=note)


one()
"""
)

OURS: Final = (
    _HEAD
    + """
@task.panda(
    pre_execute=note, environment={{"python": {python!r}, "setup": ["export JOB_STARTED=$(date +%s.%N)"]}}
)
def call():
    import os
    import random
    import time

    first = time.time()
    time.sleep(random.random())
    return {{"job": float(os.environ["JOB_STARTED"]), "first": first, "last": time.time()}}


@dag(dag_id="ours", schedule=None)
def one():
    call()


one()
"""
)


def dag_files() -> dict[str, str]:
    """Return both DAG files."""
    return {"bare.py": BARE.format(wait=GRID_DELAY), "ours.py": OURS.format(python=NODE_PYTHON)}


# --- stamps -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Bare:
    """Unix times of one bare call.

    :param started: the operator starts.
    :param fired: its trigger fires.
    :param xcom: its value is there.
    """

    started: float
    fired: float
    xcom: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """Unix times of one call on the grid.

    :param started: the operator starts.
    :param packed: the function is packed.
    :param submitted: PanDA has the task.
    :param job: the job's first line runs.
    :param first: the function's first line runs.
    :param last: its last line runs.
    :param told: the trigger has the result.
    :param xcom: the value is there.
    """

    started: float
    packed: float
    submitted: float
    job: float
    first: float
    last: float
    told: float
    xcom: float

    def stops(self) -> dict[str, float]:
        """Return the seconds of each stop; with the function they are the whole call."""
        return {
            PACK: self.packed - self.started,
            SUBMIT: self.submitted - self.packed,
            GRID: self.job - self.submitted,
            RUNNER: self.first - self.job,
            MESSAGE: self.told - self.last,
            RESUME: self.xcom - self.told,
        }

    @property
    def whole(self) -> float:
        """Seconds from the operator's start to the XCom, without the function and the grid's own delays."""
        return sum(seconds for stop, seconds in self.stops().items() if stop != GRID)


def floors(bare: Sequence[Bare], starts: Sequence[float], trips: Sequence[float]) -> dict[str, float]:
    """Return the seconds of each stop that no provider can save, medians.

    :param bare: bare calls.
    :param starts: seconds of bare starts of the interpreter.
    :param trips: seconds of messages to the broker and back.
    """
    return {
        RUNNER: statistics.median(starts),
        MESSAGE: statistics.median(trips),
        RESUME: statistics.median(each.xcom - each.fired for each in bare),
    }


def shares(calls: Sequence[Ours], floor: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds of each stop that are the provider's: the median over its floor, and nothing of the grid's."""
    stops = [call.stops() for call in calls]
    return {
        name: 0.0 if name == GRID else statistics.median(stop[name] for stop in stops) - floor.get(name, 0.0)
        for name in stops[0]
    }


def provider_share(calls: Sequence[Ours], floor: Mapping[str, float]) -> float:
    """Return the whole call's seconds, the median, less the grid's own delays and all floors."""
    return statistics.median(call.whole for call in calls) - sum(floor.values())


# --- calls --------------------------------------------------------------------------------------------------


def in_turns(installation: Installation, rounds: int) -> tuple[list[Bare], list[Ours]]:
    """Return the stamps of calls of both kinds; each begins while the ones before wait."""
    airflow = installation.airflow
    airflow.wait_for_dags(["bare", "ours"])
    for dag_id in ("bare", "ours"):  # the first look-up of a triggerer's life takes seconds
        ended(airflow, dag_id, airflow.trigger(dag_id))
    begun = []
    for _ in range(rounds):
        for dag_id in ("bare", "ours"):
            begun.append((dag_id, airflow.trigger(dag_id)))
            time.sleep(SPACING * random.uniform(0.75, 1.25))
    for dag_id, run_id in begun:
        ended(airflow, dag_id, run_id)
    bare = [bare_stamps(airflow, run_id) for dag_id, run_id in begun if dag_id == "bare"]
    return bare, [our_stamps(airflow, run_id) for dag_id, run_id in begun if dag_id == "ours"]


def ended(airflow: Airflow, dag_id: str, run_id: str) -> None:
    """Wait until a run has succeeded."""
    state = airflow.wait_for_run(dag_id, run_id, timeout=90)
    if state != "success":
        raise RuntimeError(f"{dag_id} {run_id} is {state}:\n{airflow.task_log(dag_id, run_id, 'call')}")


def bare_stamps(airflow: Airflow, run_id: str) -> Bare:
    """Return the stamps of one bare call."""
    _, xcom = returned(airflow, "bare", run_id)
    lines = log_lines(airflow, "bare", run_id)
    return Bare(started=time_of(lines, STARTED), fired=time_of(lines, FIRED), xcom=xcom)


def our_stamps(airflow: Airflow, run_id: str) -> Ours:
    """Return the stamps of one call on the grid."""
    value, xcom = returned(airflow, "ours", run_id)
    lines = log_lines(airflow, "ours", run_id)
    return Ours(
        started=time_of(lines, STARTED),
        packed=time_of(lines, r": packed call\(\)"),
        submitted=time_of(lines, r": submitted as PanDA task"),
        job=value["job"],
        first=value["first"],
        last=value["last"],
        told=time_of(lines, FIRED),
        xcom=xcom,
    )


def returned(airflow: Airflow, dag_id: str, run_id: str) -> tuple[Any, float]:
    """Return a task's value, and the Unix time at which it was there."""
    path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/call/xcomEntries/return_value"
    entry = airflow.get(path, map_index=-1)
    return entry["value"], datetime.fromisoformat(entry["timestamp"]).timestamp()


def log_lines(airflow: Airflow, dag_id: str, run_id: str) -> list[tuple[float, str]]:
    """Return the lines of a task's log with their Unix times."""
    content = json.loads(airflow.task_log(dag_id, run_id, "call"))["content"]
    return [
        (datetime.fromisoformat(line["timestamp"]).timestamp(), str(line["event"]))
        for line in content
        if line.get("timestamp")
    ]


def time_of(lines: Sequence[tuple[float, str]], pattern: str) -> float:
    """Return the Unix time of the first line that a pattern is found in.

    :raises LookupError: there is none.
    """
    found = [moment for moment, text in lines if re.search(pattern, text)]
    if not found:
        told = "\n".join(text for _, text in lines)
        raise LookupError(f"no line has {pattern!r} in the task's log:\n{told}")
    return min(found)  # a task that is resumed starts once more
