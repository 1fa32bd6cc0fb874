"""Brokers in trouble: the hub listens again by itself, and memory stays bounded. Real ActiveMQ throughout.

That no value is lost that PanDA has is in test_unavailable.py.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from stomp.exception import StompException

from airflow_provider_panda.broker import addresses
from airflow_provider_panda.broker.endpoint import BrokerEndpoint, BrokerTLS
from airflow_provider_panda.broker.hub import Hub
from airflow_provider_panda.payload import publish
from airflow_provider_panda.payload.delivery import broker_settings
from airflow_provider_panda.payload.result import JobResult
from tests.integration.broker.conftest import HEARTBEAT
from tests.stack.activemq import ActiveMQ, Login, missing
from tests.stack.certificates import Authority

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

GUARD = 90.0
LISTENER = Path(__file__).with_name("listener.py")
Hubs = Callable[..., Hub]
Endpoints = Callable[..., BrokerEndpoint]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(GUARD):
        while not condition():
            await asyncio.sleep(0.02)


def problem(hub: Hub) -> str:
    return "; ".join(each.problem or "" for each in hub.health().addresses)


class Mailbox:
    """What one waiter got, and how often it was told to look again."""

    def __init__(self, hub: Hub, grid: Any, number: int = 1) -> None:
        self.payloads: list[Any] = []
        self.looked = 0
        self.waiter = hub.wait_for(
            grid.key(number), key=grid.signing_key(number), deliver=self.deliver, on_resubscribed=self.look
        )

    def deliver(self, result: JobResult) -> None:
        self.payloads.append(result.payload)

    def look(self) -> None:
        self.looked += 1


async def gets(hub: Hub, grid: Any, broker: ActiveMQ, inbox: Mailbox, payload: str) -> None:
    """See that a hub listens to a broker, and that what is published there arrives."""
    await until(lambda: hub.health().connected)
    grid.publish(grid.connect(broker), 1, payload)
    await until(lambda: payload in inbox.payloads)


# --- where to, and who ------------------------------------------------------------------------------------------------


async def test_one_of_two_addresses_is_enough(grid: Any, hub_of: Hubs, endpoint_of: Endpoints) -> None:
    with ActiveMQ() as first, ActiveMQ() as second:
        both = ((first.host, first.port), (second.host, second.port))
        endpoint = endpoint_of(
            first, addresses=both, publisher_login=first.publisher.name, publisher_passcode=first.publisher.passcode
        )
        hub = hub_of(endpoint)
        inbox = Mailbox(hub, grid)
        with inbox.waiter:
            await until(lambda: len(hub.health().connected) == 2)
            for down, payload in ((first, "by the second"), (second, "by the first")):
                await asyncio.to_thread(down.stop)
                await until(lambda: len(hub.health().connected) == 1)
                headers, body = grid.message(1, payload=payload)
                # As a worker node publishes: to the first address that confirms.
                sent = await asyncio.to_thread(publish.publish, broker_settings(endpoint), headers, body)
                assert sent.ok, sent
                await until(lambda: payload in inbox.payloads)  # noqa: B023 - awaited in the loop
                await asyncio.to_thread(down.start)
                await until(lambda: len(hub.health().connected) == 2)
        assert inbox.payloads == ["by the second", "by the first"]
        assert hub.health().reconnects == 2


async def test_a_name_that_moves_is_followed(
    grid: Any, hub_of: Hubs, endpoint_of: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    ip = "127.0.0.1"
    real = addresses.socket.getaddrinfo

    def getaddrinfo(name: str, port: int, *rest: Any, **more: Any) -> Any:
        return real(ip if name == "moves.test" else name, port, *rest, **more)

    monkeypatch.setattr(addresses.socket, "getaddrinfo", getaddrinfo)
    with ActiveMQ() as old, ActiveMQ(host="127.0.0.2", port=old.port) as new:
        hub = hub_of(endpoint_of(old, addresses=(("moves.test", old.port),)))
        inbox = Mailbox(hub, grid)
        with inbox.waiter as waiter:
            await waiter.subscribed(GUARD)
            await gets(hub, grid, old, inbox, "at the old address")
            ip = "127.0.0.2"
            await asyncio.to_thread(old.stop)
            await until(lambda: inbox.looked)
            await gets(hub, grid, new, inbox, "at the new one")
            await until(lambda: len(hub.health().addresses) == 1)
        found = hub.health()
        assert [each.address for each in found.addresses] == [f"moves.test(127.0.0.2):{old.port}"]
        assert (found.messages, found.delivered, found.reconnects) == (2, 2, 1), "nothing that was counted is forgotten"


async def test_a_login_that_is_refused_for_a_while(grid: Any, hub_of: Hubs, endpoint_of: Endpoints) -> None:
    with ActiveMQ() as broker:
        right = broker.subscriber
        hub = hub_of(endpoint_of(broker))
        inbox = Mailbox(hub, grid)
        with inbox.waiter as waiter:
            await waiter.subscribed(GUARD)
            for passcode, seen in (("changed-passcode", "User name"), (right.passcode, "")):
                await asyncio.to_thread(broker.stop)
                broker.subscriber = Login(right.name, passcode)
                await asyncio.to_thread(broker.start)
                await until(lambda: (seen in problem(hub)) if seen else hub.health().connected)  # noqa: B023
            assert inbox.looked == 1
            await gets(hub, grid, broker, inbox, "let in again")


async def occupied(grid: Any, broker: ActiveMQ) -> Any:
    """Take the one connection that a broker has room for, once it noticed that the last one was closed."""
    async with asyncio.timeout(GUARD):
        while True:
            try:
                return await asyncio.to_thread(grid.connect, broker)
            except (StompException, OSError):  # closed by the broker while stomp.py sends
                await asyncio.sleep(0.1)


async def test_a_broker_at_its_connection_limit(grid: Any, hub_of: Hubs, endpoint_of: Endpoints) -> None:
    with ActiveMQ(options="maximumConnections=1") as broker:
        occupant = await occupied(grid, broker)
        hub = hub_of(endpoint_of(broker))
        inbox = Mailbox(hub, grid)
        with inbox.waiter:
            await until(lambda: hub.health().addresses and hub.health().addresses[0].attempts >= 3)
            assert not hub.health().connected
            assert "closed the connection" in problem(hub) or "lost" in problem(hub)
            occupant.disconnect()
            await until(lambda: hub.health().connected)


async def test_certificates_that_expire_and_are_renewed(
    grid: Any, hub_of: Hubs, endpoint_of: Endpoints, tmp_path: Path
) -> None:
    authority, passcode = Authority(tmp_path), "storepass"
    day = timedelta(days=1)

    def server(ends: timedelta) -> Path:
        return authority.keystore(authority.issue("server", host="127.0.0.1", ends=ends), passcode)

    client = authority.issue("client", ends=-day)
    broker = ActiveMQ(tls_keystore=server(-day), tls_truststore=authority.truststore(passcode), store_passcode=passcode)
    try:
        await asyncio.to_thread(broker.start)
        tls = BrokerTLS(ca_file=str(authority.ca_file), cert_file=str(client))
        hub = hub_of(endpoint_of(broker, addresses=((broker.host, broker.tls_port),), tls=tls))
        inbox = Mailbox(hub, grid)
        with inbox.waiter as waiter:
            await until(lambda: "certificate has expired" in problem(hub))
            assert "its certificate was not accepted" in problem(hub)
            server(day)  # in the place of the old one
            await asyncio.to_thread(broker.restart)
            await until(
                lambda: problem(hub) and "was not accepted" not in problem(hub) and "refused" not in problem(hub)
            )
            refused = problem(hub)
            authority.issue("client", ends=day)  # likewise; the broker goes on
            await waiter.subscribed(GUARD)
            await gets(hub, grid, broker, inbox, "trusted")
        assert "does not accept our client certificate" in refused, refused
        assert hub.health().addresses[0].problem is None
    finally:
        broker.close()


# --- silent, slow, large ----------------------------------------------------------------------------------------------


class Mute:
    """A way to a broker that can fall silent, as a firewall does that forgets a connection; no heart-beats promised."""

    def __init__(self, broker: ActiveMQ) -> None:
        self._broker, self._open = broker, asyncio.Event()
        self._server: asyncio.Server
        self.port = 0
        self.kept_back = 0
        """Promises of heart-beats that did not pass."""

    async def start(self) -> None:
        self._open.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def silence(self) -> None:
        self._open.clear()

    def speak(self) -> None:
        self._open.set()

    def close(self) -> None:
        self._open.set()
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._broker.host, self._broker.port)
        await asyncio.gather(self._copy(reader, back), self._copy(there, writer, promised=True))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, promised: bool = False) -> None:
        try:
            while data := await reader.read(65536):
                await self._open.wait()
                if promised:
                    self.kept_back += data.count(b"heart-beat:1000,1000")
                    data = data.replace(b"heart-beat:1000,1000", b"heart-beat:0,0")
                    data = b"" if not data.strip(b"\n") else data  # nor are any sent
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


async def test_a_broker_that_promises_no_heartbeats_and_falls_silent(
    activemq: ActiveMQ, grid: Any, hub_of: Hubs, endpoint_of: Endpoints
) -> None:
    way = Mute(activemq)
    await way.start()
    try:
        hub = hub_of(endpoint_of(activemq, addresses=(("127.0.0.1", way.port),), heartbeat=1.0))
        inbox = Mailbox(hub, grid)
        with inbox.waiter as waiter:
            await waiter.subscribed(GUARD)
            await asyncio.sleep(4)
            assert (way.kept_back, hub.health().reconnects) == (1, 0), "asked for a sign of life, it gives one"
            way.silence()
            await until(lambda: hub.health().reconnects == 1)
            assert "silent" in problem(hub)
            way.speak()
            await until(lambda: inbox.looked)
            await gets(hub, grid, activemq, inbox, "heard again")
    finally:
        way.close()


class Listener:
    """A hub in a process of its own (``listener.py``)."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def tells(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        async with asyncio.timeout(GUARD):
            line = await self._process.stdout.readline()
        found: dict[str, Any] = json.loads(line)
        return found

    def obey(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n".encode())


@asynccontextmanager
async def listening(broker: ActiveMQ, grid: Any) -> AsyncIterator[tuple[Listener, float]]:
    """Start a process that listens to a broker, and return it with its memory in MB."""
    settings = {
        "endpoint": {
            "addresses": [[broker.host, broker.port]],
            "login": broker.subscriber.name,
            "passcode": broker.subscriber.passcode,
            "heartbeat": HEARTBEAT,
        },
        "instance": "abcd",
        "task_key": grid.key(1),
        "key": grid.signing_key(1).hex(),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(LISTENER), json.dumps(settings), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        listener = Listener(process)
        yield listener, (await listener.tells())["rss_mb"]
    finally:
        process.kill()
        await process.wait()


def publish_many(grid: Any, connection: Any, count: int, size: int) -> None:
    for number in range(count):
        grid.publish(connection, 1, f"{number} ".ljust(size, "x"))


async def test_200_mb_for_a_loop_that_is_blocked(grid: Any) -> None:
    with ActiveMQ() as broker:
        connection = grid.connect(broker)
        async with listening(broker, grid) as (listener, rss):
            listener.obey("full 64")
            sending = asyncio.create_task(asyncio.to_thread(publish_many, grid, connection, 800, 250_000))
            blocked = await listener.tells()
            await sending
            listener.obey("after 800")
            found = await listener.tells()
        assert [int(each.split()[0]) for each in found["delivered"]] == list(range(800))
        assert (found["reconnects"], found["states"]) == (0, ["listening"]), "heart-beats went on"
        assert 64 * 2**20 <= blocked["inbox_bytes"] < 66 * 2**20, "it stopped reading"
        assert found["peak_mb"] - rss < 300


async def test_a_broker_that_cuts_slow_consumers_off(grid: Any) -> None:
    with ActiveMQ(options="transport.soWriteTimeout=1500") as broker:
        connection = grid.connect(broker)
        async with listening(broker, grid) as (listener, rss):
            listener.obey("cut 1")
            await asyncio.to_thread(publish_many, grid, connection, 500, 250_000)
            assert (await listener.tells())["reconnects"] == 1
            listener.obey("again 1")  # cut off, back, and told to look at PanDA's record
            found = await listener.tells()
            assert found["states"] == ["listening"]
            assert found["peak_mb"] - rss < 300
            grid.publish(connection, 1, "later")
            listener.obey("until later")
            assert (await listener.tells())["delivered"][-1] == "later"


async def test_a_frame_of_100_mb_is_skipped_as_it_arrives(grid: Any) -> None:
    with ActiveMQ(heap_mb=1200) as broker:
        connection = grid.connect(broker)
        async with listening(broker, grid) as (listener, rss):
            headers, _ = grid.message(1)
            await asyncio.to_thread(
                connection.send, "/topic/airflow.panda.results", b"x" * 100_000_000, headers=dict(headers)
            )
            await asyncio.to_thread(publish_many, grid, connection, 1, 10)
            listener.obey("after 1")
            found = await listener.tells()
        assert found["dropped"] == {"too_large": 1}
        assert (found["messages"], found["reconnects"], found["states"]) == (2, 0, ["listening"])
        assert found["peak_mb"] - rss < 25
