"""One run: work is started without a pause, faults happen, and when all is over it is looked at what came home."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import httpx

from demo.airflow import OVER, Airflow
from tests.chaos import evidence
from tests.chaos.evidence import patiently
from tests.chaos.faults import Faults
from tests.chaos.installation import Installation, installed
from tests.chaos.plan import SECOND_TRIGGERER, Kind, make_plan
from tests.chaos.report import Report
from tests.chaos.verify import ENDED, judge
from tests.chaos.watch import Watch
from tests.chaos.workload import DIRECT, THROUGH_IDDS, Workload

log = logging.getLogger(__name__)

IDDS_EVERY: Final = 3
"""One DAG run of so many has one through iDDS beside it: a tenth of the tasks."""
QUIET: Final = 60.0
"""Most seconds in which PanDA ends what Airflow is done with, after the last DAG run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a run is to be.

    :param seed: of the plan.
    :param seconds: how long faults happen, at least.
    :param gap: mean seconds between two faults.
    :param kinds: the kinds of faults.
    :param least_tasks: grid tasks to start at least.
    :param jobs: jobs of each task that has several.
    :param at_once: DAG runs that are under way at a time.
    :param patience: most seconds from the last fault to the end of the last DAG run.
    """

    seed: int
    seconds: float
    gap: float
    kinds: Sequence[Kind]
    least_tasks: int
    jobs: int
    at_once: int = 4
    patience: float = 300.0

    @property
    def workload(self) -> Workload:
        """The DAGs that suit the faults."""
        return Workload(jobs=self.jobs, idds=any(kind.victim.startswith("idds") for kind in self.kinds))


def run(options: Options, folder: Path) -> Report:
    """Start everything, do harm to it, and return what became of the work."""
    several = any(kind.victim == SECOND_TRIGGERER for kind in options.kinds)
    with installed(folder, options.workload, triggerers=2 if several else 1) as installation:
        patiently(lambda: installation.airflow.wait_for_dags(options.workload.dags))
        return _run(options, installation)


def _run(options: Options, installation: Installation) -> Report:
    airflow, workload = installation.airflow, options.workload
    began = time.monotonic()
    plan = make_plan(options.seed, seconds=options.seconds, gap=options.gap, kinds=options.kinds)
    log.info("seed %d: %d faults in %.0f s", options.seed, len(plan), options.seconds)
    watch = Watch(installation.parts)
    faults = Faults(installation, watch, plan)
    try:
        runs = _keep_busy(airflow, options)
        faults.join()
        log.info("no more faults; %d DAG runs were started", len(runs))
        unfinished = _wait_until_over(airflow, runs, seconds=options.patience)
        minutes = round((time.monotonic() - began) / 60, 1)
        _wait_until_quiet(installation.grid_store)
        reaped = _reap(airflow)
        if reaped:
            _wait_until_quiet(installation.grid_store)
        tasks = evidence.tasks_of(airflow, runs)
    finally:
        faults.close()
        watch.close()
    return Report(
        seed=options.seed,
        minutes=minutes,
        verdict=judge(workload, runs, tasks, evidence.grid_tasks(installation.grid_store)),
        faults=faults.done,
        missed=faults.found_nothing,
        deaths=watch.deaths,
        errors=[*faults.errors, *watch.errors],
        unfinished=unfinished,
        reaped=reaped,
    )


def _reap(airflow: Airflow) -> int | None:
    """Have an operator's command end what nobody waits for, and return how many tasks it ended."""
    if find_spec("airflow_provider_panda.commands.reap") is None:
        return None
    told = json.loads(airflow.run("panda", "reap", "panda_default", "-o", "json", "--grace", "0"))
    return sum(task["killed"] for task in told["tasks"])


def _keep_busy(airflow: Airflow, options: Options) -> list[tuple[str, str]]:
    """Start DAG runs, some at a time, until time and number are reached; return them all."""
    workload = options.workload
    end, started, tasks = time.monotonic() + options.seconds, [], 0
    open_runs: set[tuple[str, str]] = set()
    while time.monotonic() < end or tasks < options.least_tasks:
        open_runs -= {each for each in open_runs if _is_over(airflow, each)}
        while len(open_runs) < options.at_once:
            number = len(started)
            dag_id = THROUGH_IDDS if workload.idds and number % (IDDS_EVERY + 1) == IDDS_EVERY else DIRECT
            each = (dag_id, f"run{number:04d}")
            patiently(lambda each=each: _trigger(airflow, *each))  # type: ignore[misc]
            started.append(each)
            open_runs.add(each)
            tasks += len(workload.grid_tasks(dag_id))
        time.sleep(0.5)
    return started


def _trigger(airflow: Airflow, dag_id: str, run_id: str) -> None:
    answer = airflow.client.post(f"/dags/{dag_id}/dagRuns", json={"dag_run_id": run_id, "logical_date": None})
    if answer.status_code != httpx.codes.CONFLICT:  # taken, and the answer was lost
        answer.raise_for_status()


def _is_over(airflow: Airflow, each: tuple[str, str]) -> bool:
    return patiently(lambda: airflow.run_state(*each)) in OVER


def _wait_until_over(airflow: Airflow, runs: Sequence[tuple[str, str]], *, seconds: float) -> list[str]:
    """Wait for all DAG runs, and return in words those that have not ended then."""
    end = time.monotonic() + seconds
    left = list(runs)
    while left:
        left = [each for each in left if not _is_over(airflow, each)]
        if time.monotonic() > end:
            return [f"{'/'.join(each)}: {patiently(lambda e=each: airflow.states(*e))}" for each in left]  # type: ignore[misc]
        time.sleep(1.0)
    return []


def _wait_until_quiet(store: Path) -> None:
    end = time.monotonic() + QUIET
    while any(each.state not in ENDED for each in evidence.grid_tasks(store)) and time.monotonic() < end:
        time.sleep(1.0)
