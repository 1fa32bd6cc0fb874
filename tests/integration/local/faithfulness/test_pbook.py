"""The command pbook of panda-client 2.2, without anybody at the keyboard, against the embedded grid."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.local.conftest import RunningGrid

from .commands import command, environment, eventually, states


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGrid]:
    running = RunningGrid(tmp_path_factory.mktemp("pbook") / "data", "--slots", "8", "--user", "Test User")
    yield running
    assert running.stop() == 0


def pbook(grid: RunningGrid, code: str) -> str:
    """Run a line of pbook, and return what it printed."""
    done = command(environment(grid), grid.data.parent, "pbook", "-c", code)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def row_of(shown: str, task_id: int) -> str:
    """Return the row of a task in a table."""
    return next(line for line in shown.splitlines() if str(task_id) in line.split())


def test_show_and_showl(grid: RunningGrid) -> None:
    task_id = grid.submit(command="sleep 600", reqID=4711)
    grid.wait(task_id, "running")
    selections = ("4711", "'run'", "status='running'", "reqid=4711")  # to pbook, a number below 10,000,000 is a reqID
    shown = pbook(grid, "; ".join(f"show({selection})" for selection in selections))
    assert "PBook user: Test User" in shown
    rows = [" ".join(line.split()) for line in shown.splitlines() if str(task_id) in line.split()]
    assert [row.startswith(f"{task_id} 4711 running 0%") for row in rows] == [True] * 4
    long = f"showl(jeditaskid={task_id}); import json; print(json.dumps(show(4711, format='json'), default=str))"
    printed = pbook(grid, long)
    name = grid.get("task/get_detailed_info", task_id=task_id)["data"]["taskName"]
    assert name[:20] in "".join(printed.partition("[")[0].split())
    (task,) = json.loads(next(line for line in printed.splitlines() if line.startswith("[")))
    assert (task["jediTaskID"], task["status"], task["reqID"]) == (task_id, "running", 4711)
    assert str(task_id) not in pbook(grid, "show('fin')").split()
    grid.post("task/kill", task_id=task_id)
    grid.wait(task_id, "aborted")
    assert "aborted" in row_of(pbook(grid, "show('fin')"), task_id)


def test_kill_retry_finish(grid: RunningGrid) -> None:
    task_id = grid.submit(command="sleep 600", jobs=["a", "b", "c"])
    grid.wait(task_id, "running")
    assert f"jediTaskID={task_id} will be killed" in pbook(grid, f"kill({task_id})")
    grid.wait(task_id, "aborted")
    assert {job["jobStatus"] for job in grid.jobs(task_id)} == {"cancelled"}
    retried = pbook(grid, f"retry({task_id})")
    assert f"command=retry is registered for task ID {task_id}." in retried
    grid.wait(task_id, "running")
    eventually(lambda: states(grid, task_id).count("running") == 3)
    assert f"jediTaskID={task_id}" in pbook(grid, f"finish({task_id})")
    assert grid.wait(task_id, "failed", "finished", "done") == "failed", "nothing had been processed"
    rejected = command(environment(grid), grid.data.parent, "pbook", "-c", f"kill({task_id})")
    assert "Command rejected: the kill command is not accepted" in rejected.stdout + rejected.stderr
    assert rejected.returncode == 1


def test_retry_with_options(grid: RunningGrid) -> None:
    task_id = grid.submit(command="true", jobs=["a", "b", "c"], nFiles=2)
    grid.wait(task_id, "done")
    assert f"reactivation accepted. jediTaskID={task_id}" in pbook(grid, f"retry({task_id}, nFiles=3)")
    eventually(lambda: len(grid.jobs(task_id)) >= 3)
    grid.wait(task_id, "done")


def test_as_shell_commands(grid: RunningGrid) -> None:
    """``pbook show 1`` rather than a line of Python."""
    task_id = grid.submit(command="sleep 600")
    grid.wait(task_id, "running")
    variables, folder = environment(grid), grid.data.parent
    shown = command(variables, folder, "pbook", "show", str(task_id), "--format=plain")
    assert str(task_id) in shown.stdout
    assert command(variables, folder, "pbook", "kill", "all").returncode == 0
    grid.wait(task_id, "aborted")


def test_secrets(grid: RunningGrid, tmp_path: Path) -> None:
    pbook(grid, "set_secret('MYKEY', 'myvalue')")
    assert "MYKEY" in pbook(grid, "list_secrets()")
    pbook(grid, "delete_secret('MYKEY')")
    assert grid.get("creds/get_user_secrets")["data"] is None
