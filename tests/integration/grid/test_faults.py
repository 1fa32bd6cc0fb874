"""A worker's calls to the embedded grid, with everything that can go wrong on the way: one task, or the right error."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_panda.exceptions import (
    GridAnswerTooLargeError,
    GridAuthError,
    GridServerError,
    GridUnreachableError,
    TaskNotFoundError,
)
from airflow_provider_panda.grid.answers import KillOutcome
from airflow_provider_panda.grid.endpoint import AuthKind, PandaEndpoint
from airflow_provider_panda.grid.panda import PandaGrid
from airflow_provider_panda.grid.retry import PATIENT, RetryPolicy
from airflow_provider_panda.grid.task import Resources, TaskSpec, task_key
from demo.grid import Grid
from tests.stack.faulty_proxy import Fault, FaultyProxy, Kind, faulty_proxy
from tests.stack.scripted_panda import envelope, scripted_panda

KIND = "airflow-faults"
QUICK = RetryPolicy(attempts=8, first=0.02, longest=0.1)
DEADLINE = 0.4
PATHS = (
    "file_server/upload_cache_file", "creds/set_user_secrets", "task/get_tasks_detailed_info_since", "task/submit",
    "task/get_detailed_info", "task/get_job_ids", "job/get_description", "task/kill",
)  # fmt: skip
_numbers = count()


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    # Known at once, so that what is not is the proxy's doing.
    grid = Grid(tmp_path_factory.mktemp("grid"), ["--slots", "2", "--register-delay", "0"])
    yield grid
    grid.stop()


@pytest.fixture(scope="module")
def direct(grid: Grid) -> PandaEndpoint:
    ready = grid.ready
    return PandaEndpoint(url=grid.url, auth=AuthKind.TOKEN, token=grid.token(), vo=ready["vo"])


@pytest.fixture(scope="module", autouse=True)
def stalled(grid: Grid, direct: PandaEndpoint) -> Iterator[tuple[TaskSpec, Future[int], FaultyProxy]]:
    """A submission that meets a stall of half a minute, with the deadline that is set; others run meanwhile."""
    task = spec("true")
    with ThreadPoolExecutor(1) as pool, faulty_proxy(grid.url) as proxy:
        proxy.add(Fault(Kind.STALL, path="task/submit", delay=30.0))
        panda = PandaGrid(replace(direct, url=proxy.url), policy=RetryPolicy(attempts=1))
        yield task, pool.submit(panda.submit, task), proxy


@pytest.fixture
def proxy(grid: Grid) -> Iterator[FaultyProxy]:
    with faulty_proxy(grid.url) as running:
        yield running


@pytest.fixture
def panda(direct: PandaEndpoint, proxy: FaultyProxy) -> PandaGrid:
    return through(direct, proxy)


def through(direct: PandaEndpoint, proxy: FaultyProxy, **fields: Any) -> PandaGrid:
    endpoint = replace(direct, **{"url": proxy.url, "timeout": DEADLINE, **fields})
    kill = RetryPolicy(attempts=40, first=0.05, longest=0.1)
    return PandaGrid(endpoint, policy=QUICK, kill_policy=kill)


def spec(command: str = "sleep 60") -> TaskSpec:
    name = f"faults{next(_numbers)}"
    key = task_key("test", name)
    return TaskSpec(
        key=key,
        name=f"airflow-{name}-{key}",
        n_jobs=1,
        command=command,
        archive_name="sources.none.tar.gz",
        resources=Resources(max_attempt=1),
        processing_type=KIND,
    )


def all_of_it(panda: PandaGrid, task: TaskSpec) -> int:
    """Make every call of a worker once."""
    panda.upload(f"sources.{task.key}.tar.gz", b"archive " * 1000)
    panda.set_secret("FAULTS", "value")
    task_id = panda.submit(task)
    assert panda.status(task_id).name == task.name
    end = time.monotonic() + 60
    while not (jobs := panda.jobs(task_id)):
        assert time.monotonic() < end
        time.sleep(0.03)
    assert [job.job for job in jobs] == [0]
    assert panda.kill(task_id) in (KillOutcome.REGISTERED, KillOutcome.ENDED)
    return task_id


def made(direct: PandaEndpoint, task: TaskSpec) -> list[int]:
    """Return the tasks of that name that the grid has."""
    return [told.task_id for told in PandaGrid(direct).statuses(KIND) if told.name == task.name]


PASSING: dict[str, tuple[Kind, dict[str, Any], int]] = {
    "reset before it was sent on": (Kind.DROP, {}, 2),
    "lost reply": (Kind.LOSE, {}, 2),
    "reset in mid-answer": (Kind.RESET, {"size": 7}, 2),
    "stalled past the deadline": (Kind.STALL, {"delay": 0.6}, 1),
    "acted on, answered past the deadline": (Kind.LATE, {"delay": 0.6}, 1),
    "500 of nginx": (Kind.STATUS, {"status": 500}, 2),
    "502 of Apache": (Kind.STATUS, {"status": 502, "page": "apache"}, 2),
    "503 with Retry-After": (Kind.STATUS, {"status": 503, "retry_after": "0"}, 2),
    "an HTML page with 200": (Kind.ANSWER, {}, 2),
    "an empty body": (Kind.ANSWER, {"text": " "}, 2),
    "JSON cut short": (Kind.TRUNCATED, {}, 2),
    "JSON cut short of its Content-Length": (Kind.CUT, {}, 2),
    "garbage": (Kind.GARBAGE, {}, 2),
    "a byte a second": (Kind.TRICKLE, {"delay": 0.3}, 1),
    "another Content-Type": (Kind.TYPE, {"text": "image/png"}, 9),
    "a clock six hours behind": (Kind.SKEW, {"delay": -21600}, 9),
    "a clock six hours ahead": (Kind.SKEW, {"delay": 21600}, 9),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_fails_nothing_and_doubles_nothing(
    name: str, panda: PandaGrid, proxy: FaultyProxy, direct: PandaEndpoint
) -> None:
    """Each call of the worker meets the fault, some times in a row."""
    kind, details, times = PASSING[name]
    for path in PATHS:
        proxy.add(Fault(kind, path=path, count=times, **details))
    task = spec()
    task_id = all_of_it(panda, task)
    assert made(direct, task) == [task_id]
    assert all(fault["met"] for fault in proxy.faults())
    assert panda.submit(task) == task_id, "a worker that starts over finds it"


def test_a_restart_while_a_worker_submits(proxy: FaultyProxy, direct: PandaEndpoint) -> None:
    """With the pauses that workers have."""
    task = spec("true")
    panda = PandaGrid(replace(direct, url=proxy.url))
    proxy.add(Fault(Kind.REFUSE, seconds=2.5))
    task_id = panda.submit(task)
    assert made(direct, task) == [task_id]


def test_a_server_that_is_gone_is_told_when_the_patience_is_over(proxy: FaultyProxy, direct: PandaEndpoint) -> None:
    panda = PandaGrid(
        replace(direct, url=proxy.url), policy=replace(PATIENT, first=0.05, longest=0.1, patience=0.5)
    )  # fmt: skip
    with proxy.fault(Kind.REFUSE), pytest.raises(GridUnreachableError, match="connection refused"):
        panda.submit(spec())


@pytest.mark.parametrize("kind", [Kind.HUGE, Kind.BOMB])
def test_an_answer_of_a_gigabyte_is_not_read(kind: Kind, panda: PandaGrid, proxy: FaultyProxy) -> None:
    patient = PandaGrid(replace(panda.endpoint, timeout=60.0), policy=QUICK)
    task = spec("true")
    task_id = patient.submit(task)
    with proxy.fault(kind), pytest.raises(GridAnswerTooLargeError):
        patient.status(task_id)
    assert patient.status(task_id).name == task.name


def test_credentials_go_to_no_other_host(panda: PandaGrid, proxy: FaultyProxy, direct: PandaEndpoint) -> None:
    with scripted_panda() as other:
        other.on("task/submit", envelope(1))
        for path in PATHS:
            proxy.add(Fault(Kind.REDIRECT, path=path, count=2, text=f"{other.url}/api/v1/task/submit"))
        task = spec()
        task_id = all_of_it(panda, task)
        assert other.seen == []
    assert made(direct, task) == [task_id]


@pytest.mark.parametrize(
    ("kind", "details", "error"),
    [
        (Kind.DROP, {}, GridUnreachableError),
        (Kind.STALL, {"delay": 3.0}, GridUnreachableError),
        (Kind.STATUS, {"status": 503}, GridServerError),
        (Kind.ANSWER, {}, GridServerError),
        (Kind.GARBAGE, {}, GridServerError),
    ],
)
def test_what_lasts_is_told_as_what_it_is(
    kind: Kind, details: dict[str, Any], error: type[Exception], proxy: FaultyProxy, direct: PandaEndpoint
) -> None:
    panda = PandaGrid(replace(direct, url=proxy.url, timeout=0.3), policy=RetryPolicy(attempts=2, first=0.01))
    task = spec()
    calls: list[Callable[[], object]] = [
        lambda: panda.upload(f"sources.{task.key}.tar.gz", b"x"),
        lambda: panda.submit(task),
        lambda: panda.status(1),
        lambda: panda.jobs(1),
        lambda: panda.secrets(),
    ]
    with proxy.fault(kind, **details):
        for call in calls:
            with pytest.raises(error):
                call()
    assert made(direct, task) == []


def test_a_retry_is_asked_for_once_whatever_becomes_of_its_answer(panda: PandaGrid, proxy: FaultyProxy) -> None:
    """Twice would raise the attempts of the failed jobs twice."""
    task_id = panda.submit(spec("true"))
    with proxy.fault(Kind.LOSE, path="task/retry"), pytest.raises(GridUnreachableError):
        panda.retry(task_id)
    assert len(proxy.calls("task/retry", forwarded=True)) == 1


def test_a_task_that_is_not_found_yet(panda: PandaGrid, proxy: FaultyProxy) -> None:
    """JEDI takes up to a minute to know what was submitted: asked for its state, PanDA says so; a kill is repeated."""
    task_id = panda.submit(spec())
    unknown = json.dumps({"success": False, "message": "Task not found or error retrieving task info", "data": None})
    with proxy.fault(Kind.ANSWER, path="task/get_detailed_info", text=unknown):
        with pytest.raises(TaskNotFoundError):
            panda.status(task_id)
        assert len(proxy.calls("task/get_detailed_info")) == 1, "no fault, so not asked again and again"
    not_owned = json.dumps({"success": False, "message": "you are not the task owner", "data": None})
    proxy.add(Fault(Kind.ANSWER, path="task/kill", text=not_owned, count=3))
    assert panda.kill(task_id) is KillOutcome.REGISTERED
    assert len(proxy.calls("task/kill")) == 4


def test_a_token_that_looks_good_here_and_expired_there_is_told(
    grid: Grid, direct: PandaEndpoint, proxy: FaultyProxy, tmp_path: Path
) -> None:
    """Their clocks differ: the server's word counts, nothing is made, and it is no fault that is waited out."""
    renewed = tmp_path / "token"
    renewed.write_text(grid.token())
    panda = PandaGrid(
        replace(direct, url=proxy.url, auth=AuthKind.TOKEN_FILE, token=None, token_file=str(renewed)), policy=QUICK
    )
    expired = "Token authentication failed. Invalid token. Signature has expired"
    proxy.add(Fault(Kind.STATUS, status=403, text=expired, count=1))
    task = spec("true")
    with pytest.raises(GridAuthError, match="expired"):
        panda.submit(task)
    assert made(direct, task) == []
    assert [panda.submit(task)] == made(direct, task)


def test_a_stall_of_half_a_minute_is_within_the_deadline_of_a_call(
    stalled: tuple[TaskSpec, Future[int], FaultyProxy], direct: PandaEndpoint
) -> None:
    task, submission, proxy = stalled
    task_id = submission.result(timeout=120)
    assert made(direct, task) == [task_id]
    assert len(proxy.calls("task/submit")) == 1
