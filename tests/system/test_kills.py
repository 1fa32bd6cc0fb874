"""What ends the grid tasks of deferred tasks, and what does not: real Airflow, real ActiveMQ, the embedded grid.

An Airflow of its own, whose triggerers are restarted and stalled. ``SYSTEM_KILLS=100`` and ``SYSTEM_KILLS_EACH=1`` make
it a hundred tasks, and all of them for each action.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from airflow_provider_panda.grid.endpoint import AuthKind, PandaEndpoint
from airflow_provider_panda.grid.panda import PandaGrid
from airflow_provider_panda.grid.task import Phase, TaskStatus
from demo.airflow import AIRFLOW, Airflow
from demo.grid import Grid
from demo.processes import Process
from tests.stack.activemq import ActiveMQ
from tests.system.conftest import ROOT, Stack, connect

pytestmark = pytest.mark.timeout(1500)

COUNT = int(os.environ.get("SYSTEM_KILLS", "10"))
EACH = "SYSTEM_KILLS_EACH" in os.environ
DAG, TASK = "system_kills", "wait_for_file"
THRESHOLD = 12
"""Seconds without a heart-beat after which a triggerer's triggers are given to another."""


@pytest.fixture(scope="module")
def kills(activemq: ActiveMQ, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("kills")
    dags = folder / "dags"
    dags.mkdir()
    shutil.copy(ROOT / "tests/system/dags/system_kills.py", dags)
    grid = Grid(folder / "grid", ["--slots", str(min(COUNT, 30)), "--queue-delay", "1"])
    try:
        airflow = Airflow(
            folder / "airflow",
            dags,
            settings={
                "AIRFLOW__PANDA__POLL_INTERVAL": "5",
                "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": str(THRESHOLD),
                "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
                "SYSTEM_KILLS": str(COUNT),
            },
        )
        try:
            airflow.start()
            connect(airflow, grid, activemq)
            yield Stack(airflow=airflow, grid=grid, broker=activemq, folder=folder)
        finally:
            airflow.stop()
    finally:
        grid.stop()


# --- what is looked at --------------------------------------------------------------------------------------


def panda_of(stack: Stack) -> PandaGrid:
    return PandaGrid(PandaEndpoint(url=stack.grid.url, auth=AuthKind.TOKEN, token=stack.grid.token(), vo="wlcg"))


def instance_of(stack: Stack) -> str:
    (name,) = (name for name in panda_of(stack).secrets() if name.startswith("AIRFLOW_PANDA_"))
    return name.removeprefix("AIRFLOW_PANDA_").lower()


def grid_tasks(stack: Stack, run_id: str) -> dict[int, TaskStatus]:
    """Return the grid tasks of a DAG run, of all tries."""
    told = panda_of(stack).statuses(f"airflow-{instance_of(stack)}")
    mark = "-" + re.sub(r"\W", "_", run_id)[:40] + "-"
    return {task.task_id: task for task in told if mark in task.name}


def is_killed(task: TaskStatus) -> bool:
    """Whether PanDA took a kill of it."""
    return task.phase is Phase.KILLED or task.status in ("toabort", "aborting")


def wait_until(what: str, holds: Callable[[], Any], *, timeout: float = 120, pause: float = 0.5) -> None:
    end = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(pause)


def wait_for_kills(stack: Stack, run_id: str, task_ids: set[int], action: str, since: float) -> None:
    """Wait until PanDA took the kills of all these tasks, and print how long that was."""

    def left() -> set[int]:
        told = grid_tasks(stack, run_id)
        return {task_id for task_id in task_ids if not is_killed(told[task_id])}

    wait_until(f"{action}: some grid tasks still run", lambda: not left())
    print(f"\n{action}: {len(task_ids)} grid task(s) killed within {time.monotonic() - since:.1f} s")


def begun(stack: Stack, name: str) -> tuple[str, set[int]]:
    """Start a run, and return it and its grid tasks once all its tasks are deferred and their triggers started."""
    airflow = stack.airflow
    airflow.wait_for_dags([DAG])
    go = stack.folder / f"go-{name}"
    run_id = airflow.trigger(DAG, {"go": str(go)})
    wait_deferred(stack, run_id)
    tasks = set(grid_tasks(stack, run_id))
    assert len(tasks) == COUNT
    return run_id, tasks


def instances(stack: Stack, run_id: str, dag_id: str = DAG) -> list[dict[str, Any]]:
    """Return all task instances of a run: the API gives a hundred at a time."""
    found: list[dict[str, Any]] = []
    while True:
        page = stack.airflow.get(f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances", limit=100, offset=len(found))
        found += page["task_instances"]
        if len(found) >= page["total_entries"]:
            return found


def wait_deferred(stack: Stack, run_id: str, count: int = COUNT, dag_id: str = DAG) -> None:
    """Wait until a run's tasks are deferred and a triggerer has their triggers."""

    def settled() -> bool:
        deferred = [each for each in instances(stack, run_id, dag_id) if each["state"] == "deferred"]
        return len(deferred) == count and all(each["triggerer_job"] for each in deferred)

    wait_until("not all tasks are deferred", settled, timeout=400, pause=1)
    time.sleep(4)  # an assigned trigger starts within a second or two; until then Airflow calls no on_kill


def triggerers_of(stack: Stack, run_id: str) -> set[int]:
    """Return the triggerers (ids of their jobs) that a run's deferred tasks are assigned to."""
    return {each["triggerer_job"]["id"] for each in instances(stack, run_id) if each["triggerer_job"]}


def assert_all_wait(stack: Stack, run_id: str, tasks: set[int], after: str) -> None:
    told = grid_tasks(stack, run_id)
    assert set(told) == tasks, f"{after}: tasks were submitted anew"
    assert [task for task in told.values() if is_killed(task)] == [], after
    states = [each["state"] for each in instances(stack, run_id)]
    assert states == ["deferred"] * COUNT, after


# --- what does not kill -------------------------------------------------------------------------------------


@contextlib.contextmanager
def stalled(process: Process) -> Iterator[None]:
    """Suspend a process and its children, and let them go on in the end."""
    family = process.family()
    for each in family:
        each.suspend()
    try:
        yield
    finally:
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.resume()


def end_by(process: Process, number: signal.Signals) -> None:
    """Send a signal to a triggerer; by SIGKILL its children end as well, as when a machine does."""
    family = process.family()
    if number is signal.SIGTERM:
        process.popen.send_signal(number)
    else:
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.send_signal(number)
    process.popen.wait(60)
    _, alive = psutil.wait_procs(family, timeout=10)
    for each in alive:
        each.kill()


def test_triggerers_that_restart_stall_or_die_kill_nothing(kills: Stack) -> None:
    airflow = kills.airflow
    run_id, tasks = begun(kills, "restarts")
    for number in (signal.SIGTERM, signal.SIGKILL):
        (before,) = triggerers_of(kills, run_id)
        end_by(airflow.processes["triggerer"], number)
        airflow.start_component("triggerer")
        wait_until("no takeover", lambda before=before: before not in triggerers_of(kills, run_id), timeout=90)
        time.sleep(5)
        assert_all_wait(kills, run_id, tasks, number.name)

    first = airflow.processes["triggerer"]
    (before,) = triggerers_of(kills, run_id)
    with stalled(first):
        second = Process(
            "airflow triggerer B",
            [AIRFLOW, "triggerer", "--skip-serve-logs"],
            env=airflow.env,
            log=airflow.home / "triggerer-b.log",
        )
        airflow.processes["triggerer B"] = second
        wait_until("no takeover", lambda: triggerers_of(kills, run_id) and before not in triggerers_of(kills, run_id))
        time.sleep(5)

    def told() -> int:
        logs = [log_of(kills, run_id, index) for index in range(COUNT)]
        return sum("another triggerer waits for it now; not killed" in log for log in logs)

    wait_until("the stalled triggerer said nothing", lambda: told() == COUNT, pause=3)
    assert_all_wait(kills, run_id, tasks, "a stall")
    end_by(first, signal.SIGKILL)
    del airflow.processes["triggerer"]
    airflow.processes["triggerer"] = airflow.processes.pop("triggerer B")
    (kills.folder / "go-restarts").touch()
    assert airflow.wait_for_run(DAG, run_id, timeout=400) == "success"
    assert set(grid_tasks(kills, run_id)) == tasks


def log_of(stack: Stack, run_id: str, index: int) -> str:
    path = f"/dags/{DAG}/dagRuns/{run_id}/taskInstances/{TASK}/logs/1"
    answer = stack.airflow.client.get(
        path, params={"map_index": index, "full_content": True}, headers={"Accept": "application/json"}
    )
    return json.dumps(answer.raise_for_status().json())


# --- what kills ---------------------------------------------------------------------------------------------


def mark(state: str) -> Callable[[Stack, str, list[int] | None], None]:
    def act(stack: Stack, run_id: str, indices: list[int] | None) -> None:
        path = f"/dags/{DAG}/dagRuns/{run_id}/taskInstances/{TASK}"
        for each in [path] if indices is None else [f"{path}/{index}" for index in indices]:
            stack.airflow.client.patch(each, json={"new_state": state}).raise_for_status()

    return act


def clear(stack: Stack, run_id: str, indices: list[int] | None) -> None:
    chosen = [TASK] if indices is None else [[TASK, index] for index in indices]
    body = {"dry_run": False, "dag_run_id": run_id, "task_ids": chosen, "only_failed": False}
    stack.airflow.post(f"/dags/{DAG}/clearTaskInstances", body)


def delete(stack: Stack, run_id: str, indices: list[int] | None) -> None:
    for index in range(COUNT) if indices is None else indices:
        path = f"/dags/{DAG}/dagRuns/{run_id}/taskInstances/{TASK}"
        stack.airflow.client.delete(path, params={"map_index": index}).raise_for_status()


def fail_run(stack: Stack, run_id: str, indices: list[int] | None) -> None:
    stack.airflow.client.patch(f"/dags/{DAG}/dagRuns/{run_id}", json={"state": "failed"}).raise_for_status()


ACTIONS: dict[str, Callable[[Stack, str, list[int] | None], None]] = {
    "marked failed": mark("failed"),
    "cleared": clear,
    "run failed": fail_run,
    "marked success": mark("success"),
    "deleted": delete,
}


@pytest.mark.skipif(not EACH, reason="a run of its own for each action takes minutes: set SYSTEM_KILLS_EACH")
@pytest.mark.parametrize("name", list(ACTIONS))
def test_every_task_of_a_run_is_killed(kills: Stack, name: str) -> None:
    run_id, tasks = begun(kills, name.replace(" ", "-"))
    since = time.monotonic()
    ACTIONS[name](kills, run_id, None)
    wait_for_kills(kills, run_id, tasks, name, since)
    fail_run(kills, run_id, None)


def test_marks_clears_and_deletions_kill_their_tasks_and_no_others(kills: Stack) -> None:
    run_id, tasks = begun(kills, "actions")
    of_index = {
        each["map_index"]: int(kills.airflow.xcom(DAG, run_id, TASK, "panda_task_id", each["map_index"]))
        for each in instances(kills, run_id)
    }
    assert set(of_index.values()) == tasks
    fifth = COUNT // 5
    gone: set[int] = set()
    for turn, name in enumerate(["marked failed", "marked success", "deleted", "cleared"]):
        indices = list(range(turn * fifth, (turn + 1) * fifth))
        chosen = {of_index[index] for index in indices}
        since = time.monotonic()
        ACTIONS[name](kills, run_id, indices)
        wait_for_kills(kills, run_id, chosen, name, since)
        gone |= chosen
        told = grid_tasks(kills, run_id)
        assert {task_id for task_id in told if is_killed(told[task_id])} == gone, name

    # The cleared ones are submitted anew, and so are deleted ones: the scheduler makes them again.
    wait_deferred(kills, run_id, COUNT - 2 * fifth)
    left = set(grid_tasks(kills, run_id)) - gone
    assert len(left) == COUNT - 2 * fifth
    since = time.monotonic()
    fail_run(kills, run_id, None)
    wait_for_kills(kills, run_id, left, "run failed", since)


def test_a_deleted_dag_leaves_nothing_running(kills: Stack) -> None:
    airflow, dag_id = kills.airflow, "system_kills_deleted"
    airflow.wait_for_dags([dag_id])
    run_id = airflow.trigger(dag_id)
    wait_deferred(kills, run_id, 3, dag_id)
    assert airflow.client.delete(f"/dags/{dag_id}/dagRuns/{run_id}").status_code == 409  # Airflow's rule, not ours
    tasks = set(grid_tasks(kills, run_id))
    since = time.monotonic()
    airflow.client.delete(f"/dags/{dag_id}").raise_for_status()
    wait_for_kills(kills, run_id, tasks, "DAG deleted", since)


def test_execution_timeout_kills_while_waiting_and_while_submitting(kills: Stack) -> None:
    airflow, dag_id = kills.airflow, "system_kills_timeout"
    airflow.wait_for_dags([dag_id])
    run_id = airflow.trigger(dag_id)
    assert airflow.wait_for_run(dag_id, run_id) == "failed"
    tasks = grid_tasks(kills, run_id)
    assert len(tasks) == 2, [task.name for task in tasks.values()]
    wait_for_kills(kills, run_id, set(tasks), "execution_timeout", time.monotonic())


def test_a_failed_run_is_killed_once_panda_is_back(kills: Stack) -> None:
    """PanDA is away when the user fails the DAG run, and the kills reach it when it is back."""
    airflow = kills.airflow
    dag_id = "system_kills_deleted"
    airflow.wait_for_dags([dag_id])
    run_id = airflow.trigger(dag_id)
    wait_deferred(kills, run_id, 3, dag_id)
    tasks = set(grid_tasks(kills, run_id))
    http_port = kills.grid.url.rpartition(":")[2]
    kills.grid.stop()
    airflow.client.patch(f"/dags/{dag_id}/dagRuns/{run_id}", json={"state": "failed"}).raise_for_status()
    path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/sleep_long/logs/1"

    def tried() -> bool:
        answer = airflow.client.get(
            path, params={"map_index": 0, "full_content": True}, headers={"Accept": "application/json"}
        )
        return "the kill failed and is tried again" in answer.text

    wait_until("no kill was tried", tried)
    kills.grid.start(http_port, "0")
    wait_for_kills(kills, run_id, tasks, "PanDA was away", time.monotonic())
