"""PandaGrid and the triggerer's client against the embedded grid: real requests, real jobs."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from airflow_provider_panda.exceptions import GridAuthError, TaskNotFoundError
from airflow_provider_panda.grid.answers import KillOutcome
from airflow_provider_panda.grid.endpoint import AuthKind, PandaEndpoint
from airflow_provider_panda.grid.panda import PandaGrid
from airflow_provider_panda.grid.task import Phase, Resources, TaskSpec, TaskStatus, task_key
from airflow_provider_panda.grid.watch import AsyncPandaClient, StatusBoard
from airflow_provider_panda.hooks.panda import PandaHook

PATIENCE = 90
KIND = "airflow-test"
T = TypeVar("T")


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A running embedded grid; yields its ready line."""
    folder = tmp_path_factory.mktemp("grid")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "airflow_provider_panda.local", "--data", str(folder / "data"), "--slots", "2"],
            stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, (folder / "log").read_text()
            yield json.loads(line)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def endpoint(ready: dict[str, Any]) -> PandaEndpoint:
    return PandaEndpoint(
        url=ready["url"], cache_url=ready["cache_url"], auth=AuthKind.TOKEN_FILE, token_file=ready["token_file"],
        vo=ready["vo"],
    )  # fmt: skip


@pytest.fixture
def grid(endpoint: PandaEndpoint) -> PandaGrid:
    return PandaGrid(endpoint)


def spec(name: str, command: str, *, n_jobs: int = 1, **resources: Any) -> TaskSpec:
    key = task_key("test", name)
    return TaskSpec(
        key=key,
        name=f"airflow-{name}-{key}",
        n_jobs=n_jobs,
        command=command,
        archive_name="sources.none.tar.gz",
        resources=Resources(**{"max_attempt": 1, **resources}),
        processing_type=KIND,
    )


def until(look: Callable[[], T | None]) -> T:
    """Return the first thing that ``look`` finds."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = look()
        if found is not None:
            return found
        time.sleep(0.2)
    raise AssertionError("not seen in time")


def ended(grid: PandaGrid, task_id: int) -> TaskStatus:
    def look() -> TaskStatus | None:
        try:
            status = grid.status(task_id)
        except TaskNotFoundError:
            return None
        return status if status.phase.terminal else None

    return until(look)


def test_alive_and_authenticated(grid: PandaGrid) -> None:
    assert "accepts the credentials" in grid.check()


@pytest.mark.parametrize("token", [None, "wrong-token", "eyJhbGciOiJub25lIn0.e30.x"])
def test_wrong_credentials(endpoint: PandaEndpoint, token: str | None) -> None:
    kind = AuthKind.NONE if token is None else AuthKind.TOKEN
    wrong = PandaGrid(replace(endpoint, auth=kind, token=token, token_file=None))
    with pytest.raises(GridAuthError) as caught:
        wrong.check()
    assert token is None or token not in str(caught.value)


def test_upload_twice(grid: PandaGrid) -> None:
    content = b"archive " * 1000
    name = f"sources.{hashlib.sha256(content).hexdigest()}.tar.gz"
    grid.upload(name, content)
    grid.upload(name, content)


def test_secrets(grid: PandaGrid) -> None:
    grid.set_secret("GRID_TEST", '{"k": "v"}')
    assert grid.secrets()["GRID_TEST"] == '{"k": "v"}'
    grid.set_secret("GRID_TEST", None)
    assert "GRID_TEST" not in grid.secrets()


def test_a_task_of_three_jobs_from_submission_to_reports(grid: PandaGrid) -> None:
    command = """printf '{"job": "%s", "attempt": %s}' "${IN/T}" ${ATTEMPTNR} > jobReport.json"""
    task = spec("three", command, n_jobs=3)
    task_id = grid.submit(task)
    assert grid.submit(task) == task_id  # at once: not registered yet, or just so
    status = ended(grid, task_id)
    assert (status.phase, status.jobs_total, status.jobs_finished, status.jobs_failed) == (Phase.DONE, 3, 3, 0)
    assert grid.submit(task) == task_id  # and when it is over
    found = grid.find(task.name, processing_type=KIND)
    assert found is not None
    assert found.task_id == task_id
    assert task_id in [told.task_id for told in grid.statuses(KIND)]
    reports = {record.job: record.report for record in grid.reports(task_id)}
    assert reports == {index: {"job": f"['j{index}']", "attempt": 1} for index in range(3)}
    assert grid.kill(task_id) is KillOutcome.ENDED


def test_a_failing_job_tells_exit_code_and_attempts(grid: PandaGrid) -> None:
    task_id = grid.submit(spec("failing", "exit 73", max_attempt=2))
    assert ended(grid, task_id).phase is Phase.FAILED
    jobs = sorted(grid.jobs(task_id), key=lambda record: record.attempt)
    assert [(record.job, record.attempt, record.exit_code) for record in jobs] == [(0, 1, 73), (0, 2, 73)]
    assert all(record.status == "failed" and record.diagnostics for record in jobs)


def test_kill_right_after_submission(grid: PandaGrid) -> None:
    task_id = grid.submit(spec("killed", "sleep 600"))
    assert grid.kill(task_id) is KillOutcome.REGISTERED
    assert ended(grid, task_id).phase is Phase.KILLED


def test_an_unknown_queue_waits_with_a_reason_in_plain_text(grid: PandaGrid) -> None:
    task_id = grid.submit(spec("lost", "true", queue="NO_SUCH_SITE"))

    def look() -> TaskStatus | None:
        try:
            status = grid.status(task_id)
        except TaskNotFoundError:
            return None
        return status if status.error else None

    status = until(look)
    assert status.phase is Phase.WAITING
    assert "NO_SUCH_SITE" in (status.error or "")
    assert "<" not in (status.error or "")
    grid.kill(task_id)


def test_an_unknown_task(grid: PandaGrid) -> None:
    with pytest.raises(TaskNotFoundError):
        grid.status(999_999)
    assert grid.find("airflow-never-submitted") is None
    assert grid.jobs(999_999) == []


async def test_a_board_tells_the_end_of_many_tasks(grid: PandaGrid, endpoint: PandaEndpoint) -> None:
    def submit_all() -> list[int]:
        command = """echo '{"board": 1}' > jobReport.json"""
        return [grid.submit(spec(f"board{number}", command)) for number in range(4)]

    task_ids = await asyncio.to_thread(submit_all)
    client = AsyncPandaClient(endpoint)
    board = StatusBoard(client, KIND, interval=0.3, first_after=0.1)
    done: dict[int, asyncio.Event] = {task_id: asyncio.Event() for task_id in task_ids}

    def deliver(status: TaskStatus) -> None:
        if status.phase is Phase.DONE:
            done[status.task_id].set()

    registrations = [board.register(task_id, name=f"t{task_id}", deliver=deliver) for task_id in task_ids]
    try:
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(event.wait() for event in done.values()))
    finally:
        for registration in registrations:
            registration.close()
    (record,) = await client.job_records(task_ids[0])
    assert (record.job, record.report) == (0, {"board": 1})
    assert await client.kill(task_ids[0]) is KillOutcome.ENDED
    await client.aclose()


def test_the_hook_leads_there(ready: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    token = Path(ready["token_file"]).read_text().strip()
    fields = {"conn_type": "panda", "host": ready["url"], "password": token, "extra": {"vo": ready["vo"]}}
    monkeypatch.setenv("AIRFLOW_CONN_EMBEDDED", json.dumps(fields))
    good, text = PandaHook("embedded").test_connection()
    assert good, text
