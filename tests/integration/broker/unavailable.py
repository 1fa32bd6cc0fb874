"""Brokers that are away, silent or full while real triggers wait for functions on the embedded grid.

Two minutes of waiting, so test_unavailable.py has a pytest of its own run this beside the other tests of brokers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from airflow_provider_panda import configuration
from airflow_provider_panda.broker.connection import State
from airflow_provider_panda.broker.hub import Hub, get_hub
from airflow_provider_panda.payload import publish
from airflow_provider_panda.payload.delivery import broker_settings
from demo.grid import Grid
from tests.integration.broker.calls import HEARTBEAT, Calls, value_of
from tests.stack.activemq import ActiveMQ

GUARD = 90.0


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(GUARD):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    grid = Grid(tmp_path_factory.mktemp("grid"), ["--slots", "12", "--register-delay", "1"])
    yield grid
    grid.stop()


@dataclass(frozen=True)
class Absence:
    """A broker that is away for a while.

    :param seconds: how long.
    :param silent: whether its process is stopped with its connections open, in place of killed.
    """

    seconds: float
    silent: bool = False


async def through(absence: Absence, calls: Calls, broker: ActiveMQ) -> dict[str, Any]:
    """Wait for calls that end before, while and after their broker is away, and return what came and how it fared."""
    away, back = (broker.suspend, broker.resume) if absence.silent else (broker.stop, broker.start)
    triggers = {value: await asyncio.to_thread(calls.submit, value) for value in ("before", "meanwhile", "after")}
    waits = {value: asyncio.create_task(value_of(trigger)) for value, trigger in triggers.items()}
    hub = get_hub(calls.endpoint, calls.instance)
    await until(lambda: hub.health().connected)
    calls.end("before")
    async with asyncio.timeout(GUARD):
        values = [await waits["before"]]
    await asyncio.to_thread(away)
    calls.end("meanwhile")
    await asyncio.sleep(absence.seconds)
    await asyncio.to_thread(back)
    await until(lambda: hub.health().reconnects)
    stays = await stays_up(hub)
    calls.end("after")
    async with asyncio.timeout(GUARD):
        values += [await waits["meanwhile"], await waits["after"]]
    found = hub.health()
    return {
        "values": values,
        "same hub": hub is get_hub(calls.endpoint, calls.instance),
        "stays": stays,
        "states": [each.state for each in found.addresses],
    }


async def stays_up(hub: Hub) -> bool:
    """Return whether a hub that reconnects keeps a connection.

    ActiveMQ closes connections that miss their heart-beats (grace 1.5), so that these are still sent, time tells. A
    machine under load may make one late, and then one more: not always.
    """
    for _ in range(3):
        await until(lambda: hub.health().connected)
        before = hub.health().reconnects
        await asyncio.sleep(3 * HEARTBEAT)
        if hub.health().reconnects == before:
            return True
    return False


def fill(settings: dict[str, Any]) -> None:
    """Publish until a broker takes no more."""
    for _ in range(200):
        sent = publish.publish(settings, {"persistent": "true"}, "x" * 100_000, total_seconds=1)
        if not sent.ok:
            return
    pytest.fail("the store of the broker is not full")


async def on_a_full_disk(calls: Calls, broker: ActiveMQ, grid: Any) -> dict[str, Any]:
    """Wait for a call whose broker has no room for its message, and return what came and how its hub fared."""
    durable = await asyncio.to_thread(grid.connect, broker, broker.subscriber, client_id="keeps-a-copy")
    # A topic stores messages only for durable subscribers, and a full store stops nobody otherwise.
    durable.subscribe(calls.endpoint.result_destination, "1", headers={"activemq.subscriptionName": "keeps-a-copy"})
    await asyncio.to_thread(fill, broker_settings(calls.endpoint))
    trigger = await asyncio.to_thread(calls.submit, "late")
    wait = asyncio.create_task(value_of(trigger))
    hub = get_hub(calls.endpoint, calls.instance)
    await until(lambda: hub.health().connected)
    calls.end("late")
    async with asyncio.timeout(GUARD):
        value = await wait
    await until(lambda: hub.health().connected)
    found = hub.health()
    return {
        "values": [value],
        "said": "not published" in calls.log(trigger),
        "delivered": found.delivered,
        "states": [each.state for each in found.addresses],
    }


@pytest.mark.timeout(400)
async def test_values_come_home_from_brokers_that_are_away_silent_or_full(
    embedded: Grid, grid: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configuration, "poll_interval", lambda: 20.0)
    absences = {
        "a2": Absence(2),
        "a15": Absence(15),
        "a120": Absence(120),
        "silent": Absence(40, silent=True),  # longer than a runner tries to publish
    }
    full: dict[str, Literal["block", "fail"]] = {"block": "block", "fail": "fail"}
    brokers = {name: ActiveMQ() for name in absences} | {name: ActiveMQ(full_disk=kind) for name, kind in full.items()}
    try:
        await asyncio.gather(*(asyncio.to_thread(broker.start) for broker in brokers.values()))
        calls = {name: Calls(name, embedded, broker, tmp_path, monkeypatch) for name, broker in brokers.items()}
        found = await asyncio.gather(
            *(through(absence, calls[name], brokers[name]) for name, absence in absences.items()),
            *(on_a_full_disk(calls[name], brokers[name], grid) for name in full),
        )
        for of_absence in found[: len(absences)]:
            assert of_absence == {
                "values": ["before", "meanwhile", "after"],
                "same hub": True,
                "stays": True,
                "states": [State.LISTENING],
            }
        for of_full in found[len(absences) :]:
            assert of_full == {
                "values": ["late"], "said": True, "delivered": 0, "states": [State.LISTENING],
            }  # fmt: skip
        for each in calls.values():
            await get_hub(each.endpoint, each.instance).aclose()
    finally:
        for broker in brokers.values():
            broker.close()
