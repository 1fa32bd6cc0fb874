"""Waits while everything goes wrong between the triggerer and PanDA: none fails, and the loop is never held up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from airflow_provider_panda import configuration
from airflow_provider_panda.grid.board import StatusBoard
from airflow_provider_panda.grid.endpoint import AuthKind, PandaEndpoint
from airflow_provider_panda.grid.task import TaskStatus
from airflow_provider_panda.grid.watch import AsyncPandaClient
from airflow_provider_panda.hooks.panda import PandaHook
from airflow_provider_panda.triggers.event import FunctionEvent, Outcome
from airflow_provider_panda.triggers.function import PandaFunctionTrigger
from demo.grid import Grid
from tests.integration.triggers.test_function import SECRET, Bench, answer, sleeps
from tests.stack.activemq import ActiveMQ
from tests.stack.faulty_proxy import Fault, FaultyProxy, Kind, faulty_proxy
from tests.stack.scripted_panda import envelope, scripted_panda

PATIENCE = 120.0
HELD_UP = 5.0
"""Seconds that no machine, however busy, keeps a loop from running that nothing holds up."""

NOT_FOUND = json.dumps({"success": False, "message": "Task not found or error retrieving task info", "data": None})
NOTHING = json.dumps({"success": True, "message": "", "data": []})

FAULTS: dict[str, list[Fault]] = {
    "refused": [Fault(Kind.REFUSE, seconds=3)],
    "reset before it was sent on": [Fault(Kind.DROP, seconds=3)],
    "lost reply": [Fault(Kind.LOSE, seconds=3)],
    "reset in mid-answer": [Fault(Kind.RESET, size=7, seconds=3)],
    "stalled": [Fault(Kind.STALL, delay=2.0, seconds=3)],
    "500": [Fault(Kind.STATUS, status=500, seconds=3)],
    "502 of Apache": [Fault(Kind.STATUS, status=502, page="apache", seconds=3)],
    "503 with Retry-After": [Fault(Kind.STATUS, status=503, retry_after="2", seconds=3)],
    "401 for a while": [Fault(Kind.STATUS, status=401, seconds=3)],
    "404 for a while": [Fault(Kind.STATUS, status=404, text="not here", seconds=3)],
    "HTML": [Fault(Kind.ANSWER, seconds=3)],
    "JSON cut short": [Fault(Kind.TRUNCATED, seconds=3)],
    "JSON cut short of its length": [Fault(Kind.CUT, seconds=3)],
    "garbage": [Fault(Kind.GARBAGE, seconds=3)],
    "a byte a second": [Fault(Kind.TRICKLE, seconds=3)],
    "a gigabyte": [Fault(Kind.HUGE, count=2)],
    "a redirect": [Fault(Kind.REDIRECT, text="http://127.0.0.1:1/", seconds=3)],
    "another Content-Type": [Fault(Kind.TYPE, text="image/png")],
    "a clock six hours behind": [Fault(Kind.SKEW, delay=-21600)],
    "frozen": [Fault(Kind.FREEZE, seconds=3)],
    "not found": [
        Fault(Kind.ANSWER, path="get_detailed_info", text=NOT_FOUND, seconds=3),
        Fault(Kind.ANSWER, path="_since", text=NOTHING, seconds=3),
    ],
    "no report, for a while": [Fault(Kind.STATUS, path="job/get_description", status=500, count=3)],
}


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    grid = Grid(tmp_path_factory.mktemp("grid"), ["--slots", "3", "--register-delay", "1"])
    yield grid
    grid.stop()


@pytest.fixture
def connections(grid: Grid, activemq: ActiveMQ, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A connection to the grid itself, and the fields of one."""
    extra = {"auth": "token", "vo": "wlcg", "broker_conn_id": "trigger_broker", "instance_secret": SECRET, "timeout": 1}
    fields = {"conn_type": "panda", "host": grid.url, "password": grid.token(), "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_TRIGGER_BROKER", json.dumps(activemq.connection()))
    monkeypatch.setenv("AIRFLOW_CONN_TRIGGER_PANDA", json.dumps({**fields, "extra": {**extra, "timeout": 60}}))
    monkeypatch.setattr(configuration, "poll_interval", lambda: 0.5)
    return fields


@pytest.fixture
def bench(grid: Grid, activemq: ActiveMQ, connections: dict[str, Any]) -> Bench:
    return Bench(grid=grid, broker=activemq, panda=PandaHook("trigger_panda").grid())


@pytest.fixture
async def never_held_up() -> AsyncIterator[None]:
    """Check that the loop runs all the time."""
    longest, last = 0.0, time.monotonic()

    async def tick() -> None:
        nonlocal longest, last
        while True:
            await asyncio.sleep(0.05)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()

    ticking = asyncio.create_task(tick())
    yield
    ticking.cancel()
    assert longest < HELD_UP


async def fired(trigger: PandaFunctionTrigger) -> list[FunctionEvent]:
    """Return all events of a trigger that runs as a triggerer runs it."""
    made = PandaFunctionTrigger(**json.loads(json.dumps(trigger.serialize()[1])))
    async with asyncio.timeout(PATIENCE):
        return [FunctionEvent.from_json(json.loads(json.dumps(event.payload))) async for event in made.run()]


def behind(proxy: FaultyProxy, name: str, connections: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    """Make a connection through a proxy and return its id."""
    monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps({**connections, "host": proxy.url}))
    return name


async def test_every_fault_is_waited_out(
    bench: Bench, connections: dict[str, Any], monkeypatch: pytest.MonkeyPatch, never_held_up: None
) -> None:
    """All at once in one triggerer, each on a connection of its own; values come from PanDA's record alone."""
    bench.store_secret(broker_conn_id=None)
    with contextlib.ExitStack() as stack:
        proxies = {name: stack.enter_context(faulty_proxy(bench.grid.url)) for name in FAULTS}

        def submitted() -> dict[str, PandaFunctionTrigger]:
            found = {}
            for number, (name, proxy) in enumerate(proxies.items()):
                conn_id = behind(proxy, f"faulty{number}", connections, monkeypatch)
                found[name] = bench.submit(answer, conn_id=conn_id)
            return found

        triggers = await asyncio.to_thread(submitted)
        for name, proxy in proxies.items():
            for fault in FAULTS[name]:
                proxy.add(fault)
        events = dict(zip(triggers, await asyncio.gather(*map(fired, triggers.values())), strict=True))
        met = {name: [fault["met"] > 0 for fault in proxy.faults()] for name, proxy in proxies.items()}
    got = {name: [(event.outcome, bench.values(event)) for event in told] for name, told in events.items()}
    assert got == {key: [(Outcome.COMPLETE, {0: (42, "forty-two")})] for key in FAULTS}
    assert {name for name, hits in met.items() if not all(hits)} <= {"refused"}, "each was there when it was asked"


@pytest.mark.parametrize("name", ["down", "frozen", "unknown"])
async def test_a_message_is_enough(
    name: str, bench: Bench, connections: dict[str, Any], monkeypatch: pytest.MonkeyPatch, never_held_up: None
) -> None:
    """PanDA is away, answers and moves nothing, or does not know the task: the value comes all the same."""
    faults = {
        "down": [Fault(Kind.REFUSE)],
        "frozen": [Fault(Kind.FREEZE)],
        "unknown": [
            Fault(Kind.ANSWER, path="get_detailed_info", text=NOT_FOUND),
            Fault(Kind.ANSWER, path="_since", text=NOTHING),
        ],
    }
    bench.store_secret()
    with faulty_proxy(bench.grid.url) as proxy:
        conn_id = behind(proxy, f"gone_{name}", connections, monkeypatch)
        trigger = await asyncio.to_thread(bench.submit, answer, conn_id=conn_id)
        for fault in faults[name]:
            proxy.add(fault)
        (event,) = await fired(trigger)
    assert event.outcome is Outcome.COMPLETE
    assert bench.values(event) == {0: (42, "forty-two")}


async def test_a_frozen_server_is_waited_for_until_the_deadline(
    bench: Bench, connections: dict[str, Any], monkeypatch: pytest.MonkeyPatch, never_held_up: None
) -> None:
    bench.store_secret()
    with faulty_proxy(bench.grid.url) as proxy:
        conn_id = behind(proxy, "frozen", connections, monkeypatch)
        proxy.add(Fault(Kind.FREEZE))
        trigger = await asyncio.to_thread(bench.submit, sleeps, conn_id=conn_id, deadline=4)
        (event,) = await fired(trigger)
        assert len(proxy.calls("get_detailed_info")) + len(proxy.calls("_since")) > 1
    assert event.outcome is Outcome.DEADLINE
    bench.panda.kill(event.task_id or 0)


@pytest.mark.parametrize("kind", [Kind.REFUSE, Kind.STALL, Kind.STATUS])
async def test_five_thousand_waits_while_the_server_is_away(kind: Kind, never_held_up: None) -> None:
    """One listing is under way at a time, and nothing grows; all are told when it is back."""
    many = 5000
    rows = [{"jediTaskID": n, "taskName": f"t{n}", "status": "done", "processingType": "k"} for n in range(1, many + 1)]
    told: set[int] = set()
    everything = asyncio.Event()

    def deliver(status: TaskStatus) -> None:
        told.add(status.task_id)
        if len(told) == many:
            everything.set()

    with scripted_panda() as panda, faulty_proxy(panda.url) as proxy, contextlib.ExitStack() as stack:
        panda.on("task/get_tasks_detailed_info_since", envelope(rows[-500:]))
        panda.on("task/get_tasks_modified_since", envelope({str(row["jediTaskID"]): row for row in rows}))
        client = AsyncPandaClient(PandaEndpoint(url=proxy.url, auth=AuthKind.TOKEN, token="t", timeout=0.3))
        board = StatusBoard(client, "k", interval=0.1, first_after=0.05)
        proxy.add(Fault(kind, delay=1.0))
        before = len(asyncio.all_tasks())
        for n in range(1, many + 1):
            stack.enter_context(board.register(n, name=f"t{n}", deliver=deliver)).look()
        threads = threading.active_count()
        while board._failures < 3:
            await asyncio.sleep(0.02)
            assert len(asyncio.all_tasks()) - before <= 3, "the poll, the looks, and no task per wait"
            assert len(proxy.calls()) <= board._failures + 2
        assert threading.active_count() - threads < 40
        assert told == set()
        proxy.clear()
        async with asyncio.timeout(PATIENCE):
            await everything.wait()
        assert len(panda.calls("task/get_tasks_detailed_info_since")) <= 3 + (kind is Kind.STALL) * 10
    await client.aclose()
