"""Functions through the real iDDS: every way home, every way to end."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from airflow_provider_panda import configuration
from airflow_provider_panda.broker.connection import State
from airflow_provider_panda.broker.hub import get_hub
from airflow_provider_panda.exceptions import GridRefusedError, GridTaskFailedError, JobRaisedError
from airflow_provider_panda.grid.idds.client import AsyncIddsClient
from airflow_provider_panda.grid.idds.runs import DagRun, IddsGrid
from airflow_provider_panda.grid.idds.work import Site, request_properties
from airflow_provider_panda.grid.task import Phase, instance_id, task_key
from airflow_provider_panda.grid.watch import AsyncPandaClient
from airflow_provider_panda.hooks.panda import PandaHook
from airflow_provider_panda.hooks.stomp import StompHook
from airflow_provider_panda.listeners import closing
from airflow_provider_panda.operators import submission
from airflow_provider_panda.triggers import wait
from tests.integration.through_idds.calls import DEAF, DIRECT, RELAYED, SECRET, Call, close_requests, use
from tests.stack.stack import Stack

CLOSED_WITHIN = 240.0
"""Seconds from the end of a run to that of its request: twenty works end first, each a process of seconds of CPU."""


@pytest.fixture(autouse=True)
def connected(idds_stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    use(idds_stack.access, monkeypatch)
    monkeypatch.setattr(configuration, "poll_interval", lambda: 1.0)
    yield idds_stack
    close_requests()


def add(a: int, b: int) -> int:
    return a + b


def square(n: int) -> int:
    return n * n


@pytest.mark.parametrize("conn_id", [DIRECT, RELAYED])
async def test_a_value_comes_home_and_the_request_is_closed(conn_id: str) -> None:
    call = Call(add, conn_id=conn_id, op_args=[2], op_kwargs={"b": 40})

    assert await call.value() == 42

    assert call.event is not None
    assert call.event.request_id == call.ti.xcoms["idds_request_id"]
    assert call.ti.xcoms["idds_transform_id"] == call.event.transform_id
    assert call.ti.xcoms["panda_conn_id"] == conn_id
    before = call.request()
    assert before.takes_works
    (transform,) = before.transforms
    key = call.ti.xcoms["panda_task_key"]
    assert transform.name.startswith("airflow-idds_test-work-manual__")
    assert transform.name.endswith(key)
    assert before.username == "Grid User"

    after = await closed_and_ended(call)
    assert (after.status, [t.status for t in after.transforms]) == ("Finished", ["Finished"])


async def closed_and_ended(call: Call) -> Any:
    """End the run of a call as the listener does, and return its request once iDDS ended it."""
    closer = closing.Closer(lambda *_: [call.conn_id], closing.close, first_pause=0.5)
    closer.hand_over(call.ti.dag_id, call.ti.run_id, call.generation)
    assert await asyncio.to_thread(closer.drain, CLOSED_WITHIN), await asyncio.to_thread(call.request)
    until = time.monotonic() + 90
    while not (status := await asyncio.to_thread(call.request)).ended and time.monotonic() < until:
        await asyncio.sleep(0.3)
    assert status.ended, f"iDDS was asked to close it 90 s ago: {status}"
    return status


async def test_what_a_lost_worker_submitted_is_taken_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker is gone after iDDS took the task, and before any id of it was written down."""

    class LostError(BaseException):
        pass

    def lost(*_: Any, **__: Any) -> None:
        raise LostError

    first = Call(add, op_args=[2], op_kwargs={"b": 40})
    with monkeypatch.context() as patch:
        patch.setattr(submission, "tell_submission", lost)
        with pytest.raises(LostError):
            await asyncio.to_thread(first.operator.execute, first.context)
    second = Call(add, op_args=[2], op_kwargs={"b": 40}, run_id=first.ti.run_id)
    second.context["task_state_store"] = first.context["task_state_store"]

    assert await second.value() == 42

    (transform,) = second.request().transforms
    assert transform.name.endswith(second.ti.xcoms["panda_task_key"])
    assert transform.transform_id == second.ti.xcoms["idds_transform_id"]
    assert second.ti.xcoms["panda_task_key"] != task_key(instance_id(SECRET), second.ti.id)


async def test_fifty_jobs_come_home_in_order_one_by_its_second_attempt(tmp_path: Path) -> None:
    marker = str(tmp_path / "attempted")

    def flaky(n: int, marker: str) -> int:
        from pathlib import Path

        if n == 7 and not Path(marker).exists():
            Path(marker).write_text("once")
            raise RuntimeError("the first time")
        return n * 10

    call = Call(
        flaky,
        op_kwargs={"n": list(range(50)), "marker": marker},
        map_over="n",
        retry_on_exception=True,
        max_attempt=3,
    )

    assert await call.value() == [n * 10 for n in range(50)]

    assert Path(marker).exists()
    assert len(call.request().transforms) == 1


async def test_a_retry_sends_only_the_jobs_without_a_value(tmp_path: Path) -> None:
    def once(n: int, folder: str) -> int:
        from pathlib import Path
        from uuid import uuid4

        Path(folder, f"{n}_{uuid4()}").touch()
        if n == 2 and len(list(Path(folder).glob("2_*"))) == 1:
            raise RuntimeError("the first time")
        return n * 10

    arguments = {"n": [0, 1, 2, 3], "folder": str(tmp_path)}
    options: Any = {"op_kwargs": arguments, "map_over": "n", "retry": "failed_jobs", "max_attempt": 1}
    first = Call(once, **options)
    with pytest.raises(JobRaisedError, match="job 2 failed"):
        await first.value()
    second = Call(once, run_id=first.ti.run_id, store=first.context["task_state_store"], **options)

    assert await second.value() == [0, 10, 20, 30]

    assert sorted(file.name.partition("_")[0] for file in tmp_path.iterdir()) == ["0", "1", "2", "2", "3"]


async def test_killing_ends_the_jobs() -> None:
    def lasts(n: int) -> int:
        import time

        time.sleep(300)
        return n

    call = Call(lasts, op_kwargs={"n": list(range(4))}, map_over="n")
    trigger = await asyncio.to_thread(call.submit)
    grid = PandaHook(DIRECT).grid()
    name = trigger.awaited.task_name
    task = await until(lambda: found_running(grid, name))

    await trigger.on_kill()

    ended = await until(lambda: found_ended(grid, name))
    assert ended.phase is Phase.KILLED
    jobs = await asyncio.to_thread(grid.jobs, task.task_id)
    assert {job.status for job in jobs} <= {"cancelled", "closed", "failed"}


async def until(look: Any) -> Any:
    """Return what a look finds, once it finds something."""
    while (found := await asyncio.to_thread(look)) is None:
        await asyncio.sleep(0.3)
    return found


def found_running(grid: Any, name: str) -> Any:
    task = grid.find(name)
    return task if task is not None and task.status == "running" else None


def found_ended(grid: Any, name: str) -> Any:
    task = grid.find(name)
    return task if task is not None and task.phase.terminal else None


async def test_an_exception_comes_home_with_its_traceback() -> None:
    def fails() -> None:
        raise ValueError("not today")

    call = Call(fails)

    with pytest.raises(JobRaisedError, match="ValueError: not today") as raised:
        await call.value()

    assert "in fails" in raised.value.remote_traceback


async def test_setup_lines_and_values_too_large_for_an_event() -> None:
    def greet(times: int) -> str:
        import os

        return os.environ["GREETING"] * times

    call = Call(
        greet,
        conn_id=RELAYED,
        op_kwargs={"times": [1, 20_000, 20_001]},
        map_over="times",
        environment={"python": sys.executable, "setup": ["GREETING='hi; $USER'", "export GREETING"]},
    )

    assert await call.value() == ["hi; $USER" * times for times in (1, 20_000, 20_001)]

    assert call.event is not None
    assert call.event.results is None  # 64 KiB is the limit of an event
    assert call.event.task_id is not None


async def test_a_task_that_idds_cannot_submit_fails_with_what_can_be_said(connected: Stack) -> None:
    connected.idds.stop_agents()
    connected.idds.start_agents("no token")  # as when iDDS's own credentials at PanDA have expired
    call = Call(add, op_args=[1, 2])
    told = r"iDDS transform \d+ is Failed, and iDDS tells no reason"
    try:
        with pytest.raises(GridTaskFailedError, match=told) as failed:
            await call.value()
    finally:
        connected.idds.stop_agents()
        connected.idds.start_agents(connected.grid.token())

    assert failed.value.task_id is None
    assert f"iDDS request {call.ti.xcoms['idds_request_id']}" in str(failed.value)


@pytest.mark.timeout(600)
async def test_tasks_that_start_together_share_one_request() -> None:
    run_ids = [f"together__{uuid4()}" for _ in range(2)]
    calls = [Call(square, run_id=run_id, task_id=f"t{n}", op_args=[n]) for run_id in run_ids for n in range(20)]

    with ThreadPoolExecutor(40) as pool:
        triggers = await asyncio.to_thread(lambda: list(pool.map(Call.submit, calls)))

    by_run = {
        run_id: {
            trigger.awaited.request_id
            for trigger, call in zip(triggers, calls, strict=True)
            if call.ti.run_id == run_id
        }
        for run_id in run_ids
    }
    assert [len(found) for found in by_run.values()] == [1, 1]
    assert len(set.union(*by_run.values())) == 2
    lost: list[int] = []
    for call in (calls[0], calls[20]):
        used = call.ti.xcoms["idds_request_id"]
        for request in await asyncio.to_thread(call.requests):
            if request.request_id == used:
                assert len(request.transforms) == 20
            else:
                assert request.transforms == ()
                lost.append(request.request_id)
    grid = calls[0].grid
    open_ones = await still_open(grid, lost, seconds=30)
    # Who lost closed its own. iDDS drops a command that comes while its clerk holds the request: here one of some 30.
    assert len(open_ones) <= len(lost) / 2
    for call in (calls[0], calls[20]):
        await closed_and_ended(call)
    assert await still_open(grid, lost, seconds=0) == [], "the end of the run closes what is open"


async def still_open(grid: IddsGrid, request_ids: list[int], *, seconds: float) -> list[int]:
    """Return the requests that iDDS has not closed after a time, or none as soon as all are closed."""
    until = time.monotonic() + seconds
    while True:
        found = [await asyncio.to_thread(grid.client.request, request_id) for request_id in request_ids]
        request_ids = [status.request_id for status in found if status is not None and status.takes_works]
        if not request_ids or time.monotonic() > until:
            return request_ids
        await asyncio.sleep(0.3)


async def test_a_cleared_run_gets_a_new_request() -> None:
    first = Call(square, op_args=[3])
    assert await first.value() == 9
    assert (await closed_and_ended(first)).status == "Finished"

    again = Call(square, run_id=first.ti.run_id, generation=1, op_args=[4])
    assert await again.value() == 16

    assert again.ti.xcoms["idds_request_id"] > first.ti.xcoms["idds_request_id"]
    assert (await closed_and_ended(again)).status == "Finished"


async def test_submission_made_twice_is_one_transform() -> None:
    call = Call(square, op_args=[5])
    first = await asyncio.to_thread(call.submit)
    second = await asyncio.to_thread(call.submit)  # the same try executed once more: the same key

    assert first.awaited == second.awaited
    assert len(call.request().transforms) == 1
    assert await call.value(second) == 25


def test_a_request_of_another_user_is_refused_in_words(connected: Stack) -> None:
    run = DagRun(instance="abcd", dag_id="theirs", run_id="run")
    site = Site(panda_url=connected.access.panda_url, cache_url=connected.access.panda_url, vo="wlcg")
    properties = request_properties(run.request("their secret", "nonce"), site)
    # No token: the stack takes such a caller for its "Test User".
    answer = httpx.post(
        f"{connected.access.idds_url}/request", json=properties, headers={"X-IDDS-Auth-Type": "x509_proxy"}
    )
    theirs = answer.json()["request_id"]
    client = PandaHook(DIRECT).idds()

    for refused in (lambda: client.close_request(theirs), lambda: client.messages(theirs)):
        with pytest.raises(GridRefusedError, match="another user's"):
            refused()


@pytest.fixture
def late_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait, "LATE_REPORTS", (0.5, 1.0, 2.0))
    monkeypatch.setattr(wait, "SUBSCRIBE_PATIENCE", 0.5)


@pytest.mark.usefixtures("late_looks")
async def test_without_a_broker_the_value_is_read_from_what_the_services_kept() -> None:
    call = Call(add, conn_id=DEAF, op_args=[20], op_kwargs={"b": 3})

    assert await call.value() == 23


def waits_for(path: str) -> str:
    import time
    from pathlib import Path

    while not Path(path).exists():
        time.sleep(0.05)
    return "after all"


async def test_a_value_published_to_no_broker_arrives_when_the_broker_is_back(
    connected: Stack, tmp_path: Path, late_looks: None
) -> None:
    go = tmp_path / "go"
    call = Call(waits_for, op_args=[str(go)])
    trigger = await asyncio.to_thread(call.submit)
    grid = PandaHook(DIRECT).grid()
    name = trigger.awaited.task_name
    await until(lambda: found_running(grid, name))
    waiting = asyncio.create_task(call.value(trigger))
    hub = get_hub(StompHook("idds_broker").get_conn(), instance_id(SECRET))
    while not any(address.state is State.LISTENING for address in hub.health().addresses):
        await asyncio.sleep(0.1)
    await asyncio.to_thread(connected.broker.stop)
    try:
        go.touch()
        await until(lambda: found_ended(grid, name))
    finally:
        await asyncio.to_thread(connected.broker.start)

    assert await asyncio.wait_for(waiting, 60) == "after all"


async def test_what_idds_stored_is_read_back(connected: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    call = Call(add, op_args=[3], op_kwargs={"b": 4})
    trigger = await asyncio.to_thread(call.submit)
    grid = PandaHook(DIRECT).grid()
    await until(lambda: found_ended(grid, trigger.awaited.task_name))
    client = PandaHook(DIRECT).idds()
    key = trigger.awaited.task_key
    request_id = trigger.awaited.request_id
    assert request_id is not None
    transform_id = trigger.awaited.transform_id
    await until(lambda: client.messages(request_id, transform_id=transform_id, internal_id=key) or None)

    async def no_records(*_: Any, **__: Any) -> AsyncIterator[Any]:
        raise GridRefusedError("PanDA keeps no job descriptions today")
        yield

    monkeypatch.setattr(AsyncPandaClient, "record_batches", no_records)

    assert await call.value(trigger) == 7  # the message passed while nobody listened


async def test_where_idds_stores_nothing_panda_has_the_value(connected: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing_stored(*_: Any, **__: Any) -> list[Any]:
        return []

    monkeypatch.setattr(AsyncIddsClient, "messages", nothing_stored)
    call = Call(add, op_args=[3], op_kwargs={"b": 5})
    trigger = await asyncio.to_thread(call.submit)
    grid = PandaHook(DIRECT).grid()
    await until(lambda: found_ended(grid, trigger.awaited.task_name))

    assert await call.value(trigger) == 8
