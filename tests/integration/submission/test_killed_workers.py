"""A worker killed at any point, lost replies and two workers of one try, on the embedded grid: one task, one value."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from airflow_provider_panda import configuration
from airflow_provider_panda.exceptions import GridUnreachableError
from airflow_provider_panda.grid import session
from airflow_provider_panda.grid.names import processing_type, secret_name
from airflow_provider_panda.grid.panda import PandaGrid
from airflow_provider_panda.grid.retry import RetryPolicy
from airflow_provider_panda.grid.task import Phase, TaskStatus, instance_id
from airflow_provider_panda.hooks.panda import PandaHook
from airflow_provider_panda.operators import submission
from airflow_provider_panda.operators.earlier import STORE_KEY
from airflow_provider_panda.operators.function import PandaFunctionOperator
from airflow_provider_panda.payload.delivery import user_secret
from demo.grid import Grid
from tests.integration.submission.tries import DEFERRED, KILLED, PYTHON, RAISED, Kill, Work, ended

SECRET = "secret of the submission tests"
INSTANCE = instance_id(SECRET)
EXCHANGES = [
    "get", "set", "upload_cache_file", "get_tasks_detailed_info_since", "submit", "xcom", "xcom", "set",
]  # fmt: skip
"""Of a first try, in their order."""
TAKING_UP = ["get", "get_tasks_detailed_info_since", "set", "xcom", "xcom", "set"]
"""Of a try that takes up what is listed."""


def every(exchanges: list[str]) -> list[Kill]:
    return [Kill(number, forwarded) for number in range(1, len(exchanges) + 1) for forwarded in (False, True)]


SUBMITTED = Kill(EXCHANGES.index("submit") + 1, True)
*BEFORE_ITS_LAST_WORD, DEFERRING = every(EXCHANGES)
GONE = (Phase.KILLED, Phase.FAILED)


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    grid = Grid(tmp_path_factory.mktemp("grid"), ["--slots", "4", "--register-delay", "0.5"])
    yield grid
    grid.stop()


@pytest.fixture
def panda(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> PandaGrid:
    extra = {"auth": "token", "vo": "wlcg", "instance_secret": SECRET}
    connection = {"conn_type": "panda", "host": grid.url, "password": grid.token(), "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_TRIES_PANDA", json.dumps(connection))
    monkeypatch.setattr(configuration, "poll_interval", lambda: 1.0)
    monkeypatch.setattr(configuration, "end_in_triggerer", lambda: False)  # its imports would cost each child seconds
    monkeypatch.setattr(submission, "LISTED_AFTER", 3.0)  # this grid lists a task after half a second
    panda = PandaHook("tries_panda").grid()
    panda.set_secret(secret_name(INSTANCE), user_secret(SECRET, None))
    return panda


def double(n: int, gate: str) -> int:
    """Return twice the number, once there is a file of that name."""
    import pathlib
    import time

    while gate and not pathlib.Path(gate).exists():
        time.sleep(0.1)
    return 2 * n


def operator(gate: str = "") -> PandaFunctionOperator:
    return PandaFunctionOperator(
        task_id="work", python_callable=double, op_args=[21, gate], panda_conn_id="tries_panda", environment=PYTHON
    )


def tasks_of(panda: PandaGrid, works: list[Work]) -> dict[str, list[TaskStatus]]:
    """Return the tasks of each task instance, all tries, in the order of their submission."""
    found = defaultdict(list)
    for task in sorted(panda.statuses(processing_type(INSTANCE)), key=lambda task: task.task_id):
        _, _, _, run_id, _ = task.name.split("-")
        found[run_id].append(task)
    return {work.run_id: found[work.run_id] for work in works}


def settled(panda: PandaGrid, works: list[Work], fits: Callable[[list[TaskStatus]], bool]) -> None:
    """Wait until the tasks of each task instance fit."""
    end = time.monotonic() + 60
    while True:
        wrong = {run_id: tasks for run_id, tasks in tasks_of(panda, works).items() if not fits(tasks)}
        if not wrong:
            return
        assert time.monotonic() < end, [(task.name, task.status) for tasks in wrong.values() for task in tasks]
        time.sleep(0.3)


def listed(tasks: list[TaskStatus]) -> bool:
    return len(tasks) == 1


def only_one(tasks: list[TaskStatus]) -> bool:
    """Whether there is one task, and it is done."""
    return [task.phase for task in tasks] == [Phase.DONE]


def one_for_another(tasks: list[TaskStatus]) -> bool:
    """Whether the task of an earlier try was killed for that of a later one."""
    return len(tasks) == 2 and tasks[0].phase is Phase.KILLED and tasks[1].phase not in GONE


async def values(works: list[Work], **arguments: Any) -> list[Any]:
    return await asyncio.wait_for(asyncio.gather(*(work.value(**arguments) for work in works)), 120)


def killed(tmp_path: Path, kill: Kill, gate: str = "") -> Work:
    """Return a task instance whose first worker was killed."""
    work = Work(tmp_path, operator)
    assert work.ran(kill, gate=gate) == KILLED, (str(kill), work.log())
    assert work.exchanges == EXCHANGES[: kill.number]
    work.next_try()
    return work


async def replaced(tmp_path: Path, panda: PandaGrid, work: Work, gate: str) -> None:
    """Run the next try of a task instance whose task has to be killed, and read its value."""
    assert work.ran(gate=gate) == DEFERRED, work.log()
    settled(panda, [work], one_for_another)
    Path(gate).touch()
    assert await values([work], gate=gate) == [42]


def test_what_a_first_try_exchanges(tmp_path: Path, panda: PandaGrid) -> None:
    """Each of them is a point at which the worker is killed below."""
    work = Work(tmp_path, operator)
    assert work.ran() == DEFERRED, work.log()
    assert work.exchanges == EXCHANGES


async def test_a_worker_killed_at_any_point_leaves_one_task_and_its_value(tmp_path: Path, panda: PandaGrid) -> None:
    works = [killed(tmp_path, kill) for kill in BEFORE_ITS_LAST_WORD]
    for work in works:
        assert work.ran() == DEFERRED, work.log()
    assert await values(works) == [42] * len(works)
    settled(panda, works, only_one)  # nothing was killed and submitted again


async def test_a_worker_killed_between_its_last_word_and_the_deferral_counts_as_deferred(
    tmp_path: Path, panda: PandaGrid
) -> None:
    gate = str(tmp_path / "gate")
    await replaced(tmp_path, panda, killed(tmp_path, DEFERRING, gate), gate)


async def test_killed_twice_it_is_still_one_task(tmp_path: Path, panda: PandaGrid) -> None:
    """The try that takes a task up is killed at any point as well, but for its very last word."""
    kills = every(TAKING_UP)[:-1]
    works = [killed(tmp_path, SUBMITTED) for _ in kills]
    settled(panda, works, listed)
    for work, kill in zip(works, kills, strict=True):
        assert work.ran(kill) == KILLED, (str(kill), work.log())
        assert work.exchanges == TAKING_UP[: kill.number]
        work.next_try()
        assert work.ran() == DEFERRED, work.log()
        assert work.exchanges == TAKING_UP
    assert await values(works) == [42] * len(works)
    settled(panda, works, only_one)


async def test_edited_the_old_task_is_killed_and_a_new_one_submitted(tmp_path: Path, panda: PandaGrid) -> None:
    never = str(tmp_path / "never")
    kills = (Kill(2, True), Kill(SUBMITTED.number, False), *every(EXCHANGES)[2 * SUBMITTED.number - 1 :])
    works = [killed(tmp_path, kill, never) for kill in kills]
    workers = [work.start() for work in works]
    assert [ended(worker) for worker in workers] == [DEFERRED] * len(works), [work.log() for work in works]
    assert await values(works) == [42] * len(works)
    settled(panda, works[:2], only_one)
    settled(panda, works[2:], one_for_another)


@pytest.mark.parametrize(
    ("number", "forwarded"),
    [
        (EXCHANGES.index("upload_cache_file") + 1, True),
        *((n, True) for n in range(SUBMITTED.number, DEFERRING.number + 1)),
    ],
)
async def test_a_worker_that_airflow_ends_kills_what_it_submitted(
    tmp_path: Path, panda: PandaGrid, number: int, forwarded: bool
) -> None:
    """By SIGTERM, upon which Airflow's runner calls ``on_kill`` and goes on."""
    gate = str(tmp_path / "gate")
    work = Work(tmp_path, operator)
    assert work.ran(Kill(number, True, signal.SIGTERM), gate=gate) == RAISED, work.log()
    assert "Airflow ended this worker during the submission" in work.log()
    assert work.store.get(STORE_KEY)["stage"] == "ended"
    if number < SUBMITTED.number:
        assert "submit" not in work.exchanges
        return
    settled(panda, [work], lambda tasks: [task.phase for task in tasks] == [Phase.KILLED])
    work.next_try()
    await replaced(tmp_path, panda, work, gate)


async def test_told_to_resubmit_it_kills_and_submits(
    tmp_path: Path, panda: PandaGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__PANDA__ON_RETRY", "resubmit")
    gate = str(tmp_path / "gate")
    await replaced(tmp_path, panda, killed(tmp_path, SUBMITTED, gate), gate)


async def test_a_task_that_was_killed_meanwhile_is_submitted_anew(tmp_path: Path, panda: PandaGrid) -> None:
    gate = str(tmp_path / "gate")
    work = killed(tmp_path, SUBMITTED, gate)
    settled(panda, [work], listed)
    panda.kill(tasks_of(panda, [work])[work.run_id][0].task_id)
    settled(panda, [work], lambda tasks: tasks[0].phase is Phase.KILLED)
    await replaced(tmp_path, panda, work, gate)


async def test_a_task_that_is_done_is_read_and_not_run_again(tmp_path: Path, panda: PandaGrid) -> None:
    work = killed(tmp_path, SUBMITTED)
    settled(panda, [work], only_one)
    assert work.ran() == DEFERRED, work.log()
    assert await values([work]) == [42]
    settled(panda, [work], only_one)


class Losing:
    """``Session.send`` that loses the first replies to submissions, after they were carried out."""

    def __init__(self, replies: int) -> None:
        self.left, self.real = replies, session.Session.send

    def send(self) -> Any:
        async def send(of: session.Session, request: session.Request) -> session.Reply:
            reply = await self.real(of, request)
            if request.url.endswith("task/submit") and self.left > 0:
                self.left -= 1
                raise GridUnreachableError("the reply was lost", url=request.url)
            return reply

        return send


@pytest.mark.parametrize("lost", [1, 2])
async def test_lost_replies_to_the_submission(tmp_path: Path, panda: PandaGrid, lost: int) -> None:
    work = Work(tmp_path, operator)
    with mock.patch.object(session.Session, "send", Losing(lost).send()):
        assert work.ran() == DEFERRED, work.log()
    assert await values([work]) == [42]
    settled(panda, [work], only_one)


async def test_without_any_reply_the_next_try_finds_the_task(tmp_path: Path, panda: PandaGrid) -> None:
    """All attempts of the first try are in vain, and the name is not listed meanwhile: it fails."""
    impatient = PandaGrid(panda.endpoint, defaults=panda.defaults, policy=RetryPolicy(attempts=3, first=0.1))
    work = Work(tmp_path, operator)
    with (
        mock.patch.object(session.Session, "send", Losing(99).send()),
        mock.patch.object(PandaGrid, "_listed", return_value=[]),
        mock.patch.object(PandaHook, "grid", return_value=impatient),
    ):
        assert work.ran() == RAISED
    assert "the reply was lost" in work.log()
    assert work.exchanges.count("submit") == 3
    work.next_try()
    assert work.ran() == DEFERRED, work.log()
    assert await values([work]) == [42]
    settled(panda, [work], only_one)


async def test_two_workers_of_one_try_end_with_one_task(tmp_path: Path, panda: PandaGrid) -> None:
    works = [Work(tmp_path, operator) for _ in range(8)]
    for work in works:
        line = os.pipe()
        workers = [work.start(line=line) for _ in range(2)]
        for end in line:
            os.close(end)
        assert [ended(worker) for worker in workers] == [DEFERRED, DEFERRED], work.log()
    assert await values(works) == [42] * len(works)
    settled(panda, works, only_one)
