"""The hub against a real ActiveMQ."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_panda.broker import addresses
from airflow_provider_panda.broker.connection import State
from airflow_provider_panda.broker.endpoint import BrokerEndpoint
from airflow_provider_panda.broker.hub import Hub, get_hub
from airflow_provider_panda.broker.inbox import Inbox
from airflow_provider_panda.broker.status import StatusMessage
from airflow_provider_panda.exceptions import BrokerError
from airflow_provider_panda.payload.result import JobResult
from tests.stack.activemq import ActiveMQ, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

GUARD = 60.0
DESTINATION = "/topic/airflow.panda.results"
Hubs = Callable[..., Hub]
Endpoints = Callable[..., BrokerEndpoint]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(GUARD):
        while not condition():
            await asyncio.sleep(0.02)


def states(hub: Hub) -> list[State]:
    return [each.state for each in hub.health().addresses]


class Mailbox:
    """What one waiter got."""

    def __init__(self) -> None:
        self.payloads: list[Any] = []
        self.resubscribed = 0

    def deliver(self, result: JobResult) -> None:
        self.payloads.append(result.payload)

    def on_resubscribed(self) -> None:
        self.resubscribed += 1

    def waits(self, hub: Hub, grid: Any, number: int) -> Any:
        return hub.wait_for(
            grid.key(number),
            key=grid.signing_key(number),
            deliver=self.deliver,
            on_resubscribed=self.on_resubscribed,
        )


async def test_one_of_a_thousand_waiters_gets_its_result_over_one_connection(
    activemq: ActiveMQ, grid: Any, hub_of: Hubs, endpoint_of: Endpoints
) -> None:
    publisher = grid.connect(activemq)
    connections, threads = activemq.connections(), threading.active_count()
    hub = hub_of(endpoint_of(activemq))
    inboxes = [Mailbox() for _ in range(1000)]
    for number, inbox in enumerate(inboxes):
        inbox.waits(hub, grid, number).__enter__()
    with Mailbox().waits(hub, grid, 1000) as waiter:
        await waiter.subscribed(GUARD)
    assert activemq.connections() == connections + 1
    grid.publish(publisher, 517, {"auc": 0.5})
    await until(lambda: inboxes[517].payloads)
    assert [number for number, inbox in enumerate(inboxes) if inbox.payloads] == [517]
    assert inboxes[517].payloads == [{"auc": 0.5}]
    assert hub.health().waiting == 1000
    assert activemq.connections() == connections + 1
    # One thread for the connection; the others are asyncio's own for look-ups of names.
    broker_threads = [each for each in threading.enumerate() if each.name.startswith("panda-broker")]
    assert len(broker_threads) == 1, f"{threads} before"


async def test_hostile_messages_are_dropped_by_reason_and_good_ones_arrive(
    activemq: ActiveMQ, grid: Any, hub_of: Hubs, endpoint_of: Endpoints, caplog: pytest.LogCaptureFixture
) -> None:
    hub, inbox = hub_of(endpoint_of(activemq)), Mailbox()
    publisher = grid.connect(activemq)
    headers, good = grid.message(1, payload="good")
    forged = grid.message(1, payload="forged", key=b"another key")[1]
    unsigned = json.loads(good)
    del unsigned["airflow_panda"]["signature"]
    newer = json.loads(good)
    newer["airflow_panda"]["version"] = 2
    of_another_task = grid.message(2, key=grid.signing_key(1))[1]
    hostile: dict[str, list[str | bytes]] = {
        "bad_signature": [forged, forged, json.dumps(unsigned)],
        "malformed": [
            "{",
            b"",
            b"\xff\xfe\x80\x00broken",
            "[" * 100_000,
            '{"airflow_panda": ' + "[" * 5000 + "]" * 5000 + "}",
            '{"airflow_panda": 5}',
            '{"ret": [true, 1, null, null]}',
            "9" * 5000,
            json.dumps(newer),
            of_another_task,
            '{"class": "os.system", "module": "os"}',
        ],
        "too_large": [b"\0" * 10_000_000, b"x" * 1_100_000],
        "not_awaited": [],
    }
    with inbox.waits(hub, grid, 1) as waiter, caplog.at_level(logging.DEBUG):
        await waiter.subscribed(GUARD)
        for bodies in hostile.values():
            for body in bodies:
                publisher.send(DESTINATION, body, headers=dict(headers))
        for number in (3, 4):  # tasks that nobody here waits for
            grid.publish(publisher, number)
        grid.publish(publisher, 1, "good")
        await until(lambda: inbox.payloads)
    assert inbox.payloads == ["good"]
    expected = {reason: len(bodies) for reason, bodies in hostile.items()} | {"not_awaited": 2}
    assert hub.health().dropped == expected
    assert hub.health().reconnects == 0
    ours = [record for record in caplog.records if record.name.startswith("airflow_provider_panda")]
    warnings = [record.getMessage() for record in ours if record.levelno >= logging.WARNING]
    assert len(warnings) == 3, "one line per task and reason"
    assert all(grid.key(1) in warning for warning in warnings)


async def test_a_callback_that_fails_does_not_disturb_others(
    activemq: ActiveMQ, grid: Any, hub_of: Hubs, endpoint_of: Endpoints
) -> None:
    hub, inbox = hub_of(endpoint_of(activemq)), Mailbox()
    publisher = grid.connect(activemq)

    def fails(result: JobResult) -> None:
        raise RuntimeError("the trigger's own mistake")

    with hub.wait_for(grid.key(1), key=grid.signing_key(1), deliver=fails), inbox.waits(hub, grid, 2) as waiter:
        await waiter.subscribed(GUARD)
        grid.publish(publisher, 1)
        grid.publish(publisher, 2, "arrives")
        await until(lambda: inbox.payloads)
    assert inbox.payloads == ["arrives"]


async def test_two_waiters_of_one_task_both_get_its_result(
    activemq: ActiveMQ, grid: Any, hub_of: Hubs, endpoint_of: Endpoints
) -> None:
    hub, old, new = hub_of(endpoint_of(activemq)), Mailbox(), Mailbox()
    publisher = grid.connect(activemq)
    with new.waits(hub, grid, 1) as waiter:
        with old.waits(hub, grid, 1):
            await waiter.subscribed(GUARD)
            grid.publish(publisher, 1, "both")
            await until(lambda: old.payloads and new.payloads)
        grid.publish(publisher, 1, "the one that stays")
        await until(lambda: len(new.payloads) == 2)
    assert old.payloads == ["both"]


async def test_silent_broker_is_noticed_and_used_again(grid: Any, hub_of: Hubs, endpoint_of: Endpoints) -> None:
    with ActiveMQ() as broker:
        hub, inbox = hub_of(endpoint_of(broker)), Mailbox()
        with inbox.waits(hub, grid, 1) as waiter:
            await waiter.subscribed(GUARD)
            broker.suspend()
            await until(lambda: hub.health().reconnects == 1)
            assert "silent" in str(hub.health().addresses[0].problem)
            broker.resume()
            await until(lambda: inbox.resubscribed)
            grid.publish(grid.connect(broker), 1, "awake")
            await until(lambda: inbox.payloads)
            assert inbox.payloads == ["awake"]


async def test_broker_that_is_down_at_start(grid: Any, hub_of: Hubs, endpoint_of: Endpoints) -> None:
    broker = ActiveMQ()
    try:
        hub, inbox = hub_of(endpoint_of(broker)), Mailbox()
        with inbox.waits(hub, grid, 1) as waiter:
            with pytest.raises(BrokerError, match="Connection refused") as caught:
                await waiter.subscribed(1.0)
            assert caught.value.address == f"{broker.host}:{broker.port}"
            await asyncio.to_thread(broker.start)
            await until(lambda: inbox.resubscribed)
            grid.publish(grid.connect(broker), 1, "at last")
            await until(lambda: inbox.payloads)
    finally:
        broker.close()


async def test_two_logins_have_two_hubs(activemq: ActiveMQ, grid: Any, hub_of: Hubs, endpoint_of: Endpoints) -> None:
    publisher = grid.connect(activemq)
    one = hub_of(endpoint_of(activemq, result_destination="/topic/one"))
    other_login = {"login": activemq.other.name, "passcode": activemq.other.passcode}
    two = hub_of(endpoint_of(activemq, result_destination="/topic/two", **other_login))
    assert one is not two
    assert one is get_hub(endpoint_of(activemq, result_destination="/topic/one"), "abcd")
    first, second = Mailbox(), Mailbox()
    with first.waits(one, grid, 1) as waiter, second.waits(two, grid, 1) as other:
        await waiter.subscribed(GUARD)
        await other.subscribed(GUARD)
        for topic in ("one", "two"):
            headers, body = grid.message(1, payload=topic)
            publisher.send(f"/topic/{topic}", body, headers=headers)
        await until(lambda: first.payloads and second.payloads)
    assert (first.payloads, second.payloads) == (["one"], ["two"])


@pytest.mark.parametrize(
    ("login", "says"),
    [("nobody", "User name"), ("worker", "not authorized")],
    ids=["unknown user", "publish-only user"],
)
async def test_refused_login_or_subscription_says_why_and_no_secret_is_logged(
    login: str,
    says: str,
    activemq: ActiveMQ,
    grid: Any,
    hub_of: Hubs,
    endpoint_of: Endpoints,
    caplog: pytest.LogCaptureFixture,
) -> None:
    passcode = activemq.publisher.passcode
    with caplog.at_level(logging.DEBUG):
        hub = hub_of(endpoint_of(activemq, login=login, passcode=passcode))
        with Mailbox().waits(hub, grid, 1) as waiter, pytest.raises(BrokerError, match=says):
            await waiter.subscribed(2.0)
    assert passcode not in caplog.text
    assert passcode not in repr(hub.health())


async def test_every_address_of_a_name_is_listened_to(
    activemq: ActiveMQ, grid: Any, hub_of: Hubs, endpoint_of: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    ips = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    real = addresses.socket.getaddrinfo

    def getaddrinfo(name: str, port: int, *rest: Any, **more: Any) -> Any:
        if name == "alias.test":
            return [each for ip in ips for each in real(ip, port, *rest, **more)]
        return real(name, port, *rest, **more)

    monkeypatch.setattr(addresses.socket, "getaddrinfo", getaddrinfo)
    with ActiveMQ(host="127.0.0.2", port=activemq.port) as second:
        hub, inbox = hub_of(endpoint_of(activemq, addresses=(("alias.test", activemq.port),))), Mailbox()
        with inbox.waits(hub, grid, 1) as waiter:
            await waiter.subscribed(GUARD)
            await until(lambda: states(hub).count(State.LISTENING) == 2)
            grid.publish(grid.connect(activemq), 1, "by the first")
            grid.publish(grid.connect(second), 1, "by the second")
            await until(lambda: len(inbox.payloads) == 2)
            assert set(inbox.payloads) == {"by the first", "by the second"}
            assert len(hub.health().connected) == 2
            # The third, which nobody answers for, leaves the name; the others are not disturbed.
            ips.remove("127.0.0.3")
            await until(lambda: len(hub.health().addresses) == 2)
            second.stop()
            await until(lambda: hub.health().reconnects == 1)
            grid.publish(grid.connect(activemq), 1, "still")
            await until(lambda: len(inbox.payloads) == 3)


async def test_a_loop_that_is_slow_holds_the_broker_back_and_loses_nothing(
    activemq: ActiveMQ, grid: Any, hub_of: Hubs, endpoint_of: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Inbox.__init__, "__defaults__", (100_000,))
    hub, inbox = hub_of(endpoint_of(activemq)), Mailbox()
    publisher = grid.connect(activemq)
    with inbox.waits(hub, grid, 1) as waiter:
        await waiter.subscribed(GUARD)
        for number in range(100):
            grid.publish(publisher, 1, f"{number}" + "x" * 50_000)
        time.sleep(8)  # what must not happen in a loop: longer than a broker waits for a heart-beat
        assert hub.health().messages < 20, "it stopped reading"
        await until(lambda: len(inbox.payloads) == 100)
    assert [payload.rstrip("x") for payload in inbox.payloads] == [str(number) for number in range(100)]
    assert hub.health().reconnects == 0, "heart-beats went on"


async def test_status_messages_of_watched_tasks(
    activemq: ActiveMQ, grid: Any, hub_of: Hubs, endpoint_of: Endpoints
) -> None:
    hub = hub_of(endpoint_of(activemq, status_destination="/topic/panda_idds"))
    publisher = grid.connect(activemq)
    seen: list[StatusMessage] = []
    with Mailbox().waits(hub, grid, 1) as waiter, hub.watch_status(7, seen.append):
        await waiter.subscribed(GUARD)
        for task in (6, 7):
            for body in (
                {"msg_type": "task_status", "taskid": task, "status": "running", "timestamp": 5},
                {"msg_type": "job_status", "taskid": task, "jobid": 9, "status": "failed", "timestamp": 6},
            ):
                publisher.send("/topic/panda_idds", json.dumps(body))
        await until(lambda: len(seen) == 2)
    assert seen == [StatusMessage(7, None, "running", 5.0), StatusMessage(7, 9, "failed", 6.0)]
    assert hub.health().dropped == {"not_awaited": 2}


async def test_connections_close_when_nobody_waits_and_open_again(
    activemq: ActiveMQ, grid: Any, endpoint_of: Endpoints
) -> None:
    hub, inbox = Hub(endpoint_of(activemq), "abcd", linger=0.1), Mailbox()
    publisher = grid.connect(activemq)
    before = activemq.connections()
    for round_number in (1, 2):
        with inbox.waits(hub, grid, 1) as waiter:
            await waiter.subscribed(GUARD)
            grid.publish(publisher, 1, round_number)
            await until(lambda: len(inbox.payloads) == round_number)  # noqa: B023 - awaited in the loop
        await until(lambda: activemq.connections() == before)
        await until(lambda: not [each for each in threading.enumerate() if each.name.startswith("panda-broker")])
    assert inbox.payloads == [1, 2]


def test_a_loop_that_ends_without_closing_its_hub_leaves_no_thread(
    activemq: ActiveMQ, grid: Any, endpoint_of: Endpoints
) -> None:
    async def forgets() -> None:
        with Mailbox().waits(get_hub(endpoint_of(activemq), "abcd"), grid, 1) as waiter:
            await waiter.subscribed(GUARD)

    asyncio.run(forgets())
    for thread in threading.enumerate():
        if thread.name.startswith("panda-broker"):
            thread.join(GUARD)
            assert not thread.is_alive()
