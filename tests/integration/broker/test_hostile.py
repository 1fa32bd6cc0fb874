"""A hundred thousand hostile messages at a real hub: nothing is decoded past its signature, and real results arrive."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import logging
import queue
import random
import socket
import statistics
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from airflow_provider_panda.broker import connection as connection_module
from airflow_provider_panda.broker.endpoint import BrokerEndpoint
from airflow_provider_panda.broker.hub import Hub
from airflow_provider_panda.broker.screen import Drop
from airflow_provider_panda.broker.status import StatusMessage
from airflow_provider_panda.grid.task import task_key
from airflow_provider_panda.payload import envelope
from airflow_provider_panda.payload.result import JobResult
from tests.fuzz.hostile import FAMILIES, MARK, SIGNED, Forger, Message, Target, genuine
from tests.stack.activemq import ActiveMQ, missing

INSTANCE = "abcd"
SECRET = "instance secret of the tests"
GUARD = 60.0
TARGETS = [
    Target(key, envelope.derive_key(SECRET, key))
    for key in (task_key(INSTANCE, f"task instance {number}") for number in range(4))
]
TASK_ID = 4711

EXAMPLES, BATCH = 110, 1000
GROWTH = 32 * 1024 * 1024
"""Bytes by which the process may grow after its first batches."""


class FloodingBroker:
    """Writes frames as fast as they are read; subscriptions are confirmed, nothing else is understood."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.accepted = 0
        self._subscribed: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
        self._peer: socket.socket | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            threading.Thread(target=self._converse, args=(peer,), daemon=True).start()

    def _converse(self, peer: socket.socket) -> None:
        seen, receipts = b"", 0
        try:
            while data := peer.recv(65536):
                *frames, seen = (seen + data).split(b"\0")
                for frame in frames:
                    if frame.lstrip().startswith(b"CONNECT"):
                        peer.sendall(b"CONNECTED\nversion:1.2\nheart-beat:0,1000\n\n\0")
                    for line in frame.split(b"\n"):
                        if line.startswith(b"receipt:subscribed"):
                            peer.sendall(b"RECEIPT\nreceipt-id:" + line[8:] + b"\n\n\0")
                            receipts += 1
                            if receipts == 2:
                                self._subscribed.put(peer)
        except OSError:
            pass

    def write(self, data: bytes) -> None:
        """Write to the connection that is subscribed; it may have been closed by the other side."""
        if self._peer is None:
            self._peer = self._subscribed.get(timeout=GUARD)
        with contextlib.suppress(OSError):
            self._peer.sendall(data)

    def hang_up(self) -> None:
        """Close the connection; what is written from now on goes to the next one."""
        if self._peer is not None:
            with contextlib.suppress(OSError):  # the other side may have been first
                self._peer.shutdown(socket.SHUT_RDWR)
            self._peer.close()
        self._peer = None

    def close(self) -> None:
        self._listener.close()
        self.hang_up()


def framed(message: Message, *, with_length: bool = True, subscription: bytes = b"results") -> bytes:
    """Return a message as a broker passes it on."""
    head = b"MESSAGE\nsubscription:" + subscription + b"\nmessage-id:1\ndestination:/topic/x\n" + message.head
    if with_length:
        head += b"content-length:%d\n" % len(message.body)
    return head + b"\n" + message.body + b"\0"


class World:
    """A hub on a loop in a thread, waited for by every target."""

    def __init__(self, endpoint: BrokerEndpoint) -> None:
        self.errors: list[Any] = []
        self.got: dict[str, list[Any]] = {target.key: [] for target in TARGETS}
        self.hints: list[StatusMessage] = []
        self._arrived = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda loop, context: self.errors.append(context))
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.hub: Hub = self.run(self._open(endpoint))

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(GUARD)

    async def _open(self, endpoint: BrokerEndpoint) -> Hub:
        hub = Hub(endpoint, INSTANCE)
        self._watch = hub.watch_status(TASK_ID, self._hint)
        self._watch.__enter__()
        self._waiters = [
            hub.wait_for(target.key, key=target.signing_key, deliver=self._deliver(target.key)) for target in TARGETS
        ]
        for waiter in self._waiters:
            waiter.__enter__()
        await self._waiters[0].subscribed(GUARD)
        return hub

    def _deliver(self, key: str) -> Callable[[JobResult], None]:
        def deliver(result: JobResult) -> None:
            with self._arrived:
                self.got[key].append(result.payload)
                self._arrived.notify_all()

        return deliver

    def _hint(self, message: StatusMessage) -> None:
        self.hints.append(message)

    def await_value(self, key: str, value: Any) -> None:
        with self._arrived:
            assert self._arrived.wait_for(lambda: self.got[key] and self.got[key][-1] == value, GUARD), (
                self.hub.health()
            )

    def close(self) -> None:
        self.run(self.hub.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(GUARD)
        self._loop.close()


class Guards:
    """Sees what the hub's threads do that only a message whose signature holds may bring about."""

    EVENTS = (
        "pickle.",
        "import",
        "exec",
        "compile",
        "open",
        "os.",
        "subprocess.",
        "marshal.",
        "code.",
        "socket.connect",
    )

    def __init__(self) -> None:
        self.active = False
        self.authentic: set[str] = set()
        self.decoded: list[str] = []
        self.seen: list[tuple[str, Any]] = []

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.active and event.startswith(self.EVENTS) and threading.current_thread().name.startswith("panda-broker"):
            self.seen.append((event, arguments))

    def loads(self, text: Any, *args: Any, **keywords: Any) -> Any:
        if text not in self.authentic:
            self.decoded.append(str(text)[:200])
        return json.loads(text, *args, **keywords)

    def learn(self, message: Message) -> None:
        self.authentic.add(json.loads(message.body)[envelope.BODY_KEY]["signed"])


_guards: list[Guards] = []
sys.addaudithook(lambda event, arguments: [each.audit(event, arguments) for each in _guards] and None)


@pytest.fixture
def guards(monkeypatch: pytest.MonkeyPatch) -> Iterator[Guards]:
    guards = Guards()
    monkeypatch.setattr(envelope, "json", types.SimpleNamespace(loads=guards.loads, dumps=json.dumps))
    _guards.append(guards)
    yield guards
    _guards.remove(guards)


@pytest.fixture
def flood() -> Iterator[FloodingBroker]:
    broker = FloodingBroker()
    yield broker
    broker.close()


@pytest.fixture
def world_of() -> Iterator[Callable[..., World]]:
    worlds: list[World] = []

    def make(host: str, port: int, **fields: Any) -> World:
        fields = {"status_destination": "/topic/panda_idds", "heartbeat": 5.0, **fields}
        worlds.append(World(BrokerEndpoint(addresses=((host, port),), **fields)))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


def settle_memory() -> None:
    """Give back what is free, so that the size of the process tells what is held."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def status_messages(rng: random.Random) -> Iterator[bytes]:
    """Yield messages of the status destination, which nobody signs: a few good ones among broken ones."""
    for body in (
        b'{"msg_type":"task_status","taskid":%d,"status":"done","timestamp":1}' % TASK_ID,
        b'{"taskid":%d' % TASK_ID,
        b'{"taskid":%d,"status":' % TASK_ID + b"[" * rng.choice((10, 990, 5000)),
        b'{"msg_type":"task_status","taskid":%d,"status":{"class":"system","module":"os"}}' % TASK_ID,
        b'{"msg_type":"job_status","taskid":%d,"jobid":"1","status":"x","timestamp":NaN}' % TASK_ID,
        b'{"msg_type":"task_status","x":{"taskid":%d},"taskid":"%s","status":"x"}' % (TASK_ID, b"9" * 17),
        b'{"msg_type":"task_status","taskid":%d,"status":"x","timestamp":%s}' % (TASK_ID, b"9" * 4000),
        rng.randbytes(50),
    ):
        yield framed(Message(b"", body, "status"), subscription=b"status")


@pytest.mark.timeout(600)
def test_a_hundred_thousand_hostile_messages(
    flood: FloodingBroker, world_of: Callable[..., World], guards: Guards, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    world = world_of("127.0.0.1", flood.port)
    process = psutil.Process()
    sent, good, sizes = [0], {target.key: 0 for target in TARGETS}, []

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(
        seed=st.integers(0, 2**64 - 1),
        families=st.lists(st.sampled_from(sorted(FAMILIES)), min_size=1, max_size=10),
        seasoning=st.binary(max_size=64),
        tree=JSON,
        lengths=st.booleans(),
    )
    def batch(seed: int, families: list[str], seasoning: bytes, tree: Any, lengths: bool) -> None:
        forger = Forger(seed, TARGETS, seasoning=seasoning, tree=tree)
        frames: list[bytes] = []
        for number in range(BATCH):
            message = forger.draw(families[number % len(families)])
            if message.family in (SIGNED, "of_another", "version"):
                # Of one who has the key, or of a genuine message: the signed text may be decoded if its own key fits.
                guards.learn(message)
            with_length = lengths or b"\0" in message.body
            frames.append(framed(message, with_length=with_length))
            if number % 100 == 0:
                target = TARGETS[number // 100 % len(TARGETS)]
                good[target.key] += 1
                real = genuine(target, ["real", good[target.key]])
                guards.learn(real)
                frames.append(framed(real))
        frames += status_messages(forger.rng)
        last = genuine(TARGETS[0], ["real", good[TARGETS[0].key] + 1])
        good[TARGETS[0].key] += 1
        guards.learn(last)
        flood.write(b"".join([*frames, framed(last)]))
        sent[0] += len(frames) + 1
        world.await_value(TARGETS[0].key, ["real", good[TARGETS[0].key]])
        guards.authentic.clear()
        health = world.hub.health()
        assert Drop.UNREADABLE.value not in health.dropped
        assert health.messages == sent[0]
        assert health.reconnects == 0
        assert (world.errors, guards.decoded, guards.seen) == ([], [], [])
        settle_memory()
        sizes.append(process.memory_info().rss)
        guards.active = True  # what is imported with the first messages is imported by then

    batch()
    assert sent[0] >= 100_000
    for target in TARGETS:
        assert world.got[target.key] == [["real", number + 1] for number in range(good[target.key])]
    assert {hint.status for hint in world.hints} <= {"done", "x"}
    fifth = len(sizes) // 5
    assert statistics.median(sizes[-fifth:]) - statistics.median(sizes[fifth : 2 * fifth]) < GROWTH, sizes
    health = world.hub.health()
    assert set(health.dropped) <= {"bad_signature", "malformed", "no_key", "not_awaited", "too_large"}
    assert health.dropped["bad_signature"] > 10_000
    assert flood.accepted == 1
    said = [record for record in caplog.records if record.name.startswith("airflow_provider_panda")]
    assert len(said) <= 3 * len(TARGETS), "one line per task and reason"
    assert all(record.exc_info is None and MARK not in record.getMessage() for record in said)


WIRE = {
    "cut within the head": framed(genuine(TARGETS[0], MARK))[:60],
    "cut within the body": framed(genuine(TARGETS[0], MARK))[:-30],
    "length too short": b"MESSAGE\nsubscription:results\ncontent-length:3\n\nlonger than that\0",
    "length too long": b"MESSAGE\nsubscription:results\ncontent-length:900\n\nshort\0",
    "length of no number": b"MESSAGE\nsubscription:results\ncontent-length:-5\n\nx\0",
    "no STOMP": b"\x16\x03\x01" + b"\xff" * 70_000,
    "no STOMP but lines": b"HTTP/1.1 400 Bad Request\nServer: x\n\n<html>\0",
    "nothing but NUL": b"\0" * 1000,
    "an error": b"ERROR\nmessage:\\n\\r\\cgo away\n\nno\0",
    "headers without end": b"MESSAGE\nsubscription:results\n" + b"x:y\n" * 40_000,
}


def test_streams_that_are_no_stomp_cost_a_connection_and_no_more(
    flood: FloodingBroker, world_of: Callable[..., World], guards: Guards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "backoff", lambda: iter(lambda: 0.02, None))
    world = world_of("127.0.0.1", flood.port)
    for number, stream in enumerate(WIRE.values()):
        before = genuine(TARGETS[1], ["before", number])
        guards.learn(before)
        flood.write(framed(before) + stream)
        world.await_value(TARGETS[1].key, ["before", number])
        flood.hang_up()
    after = genuine(TARGETS[1], ["after", len(WIRE)])
    guards.learn(after)
    flood.write(framed(after))
    world.await_value(TARGETS[1].key, ["after", len(WIRE)])
    assert world.got[TARGETS[1].key] == [*(["before", number] for number in range(len(WIRE))), ["after", len(WIRE)]]
    assert (world.errors, guards.decoded) == ([], [])
    assert flood.accepted == len(WIRE) + 1
    assert len(world.hub.health().addresses) == 1


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_what_a_real_broker_passes_on(
    activemq: ActiveMQ, world_of: Callable[..., World], guards: Guards, caplog: pytest.LogCaptureFixture
) -> None:
    """One who may publish writes to ActiveMQ as fast as it takes it, headers of 180 KiB among the rest."""
    login = activemq.subscriber
    world = world_of(activemq.host, activemq.port, login=login.name, passcode=login.passcode)
    destination = b"destination:/topic/airflow.panda.results\n"
    with socket.create_connection((activemq.host, activemq.port)) as peer:
        peer.sendall(
            b"CONNECT\naccept-version:1.2\nhost:x\nlogin:%s\npasscode:%s\n\n\0"
            % (activemq.publisher.name.encode(), activemq.publisher.passcode.encode())
        )
        assert peer.recv(9) == b"CONNECTED"
        forger = Forger(7, TARGETS, seasoning=b"\xff\0", tree={"class": "x"})
        names = [name for name in sorted(FAMILIES) if name != "headers"]
        for number in range(5000):
            message = forger.draw(names[number % len(names)])
            if message.family in (SIGNED, "of_another", "version"):
                guards.learn(message)
            head = b"SEND\n" + destination + message.head
            if number % 500 == 0:
                head += b"".join(b"x%d:%s\n" % (each, b"h" * 9000) for each in range(20))
            peer.sendall(head + b"content-length:%d\n\n" % len(message.body) + message.body + b"\0")
        real = genuine(TARGETS[2], "real")
        guards.learn(real)
        peer.sendall(
            b"SEND\n" + destination + real.head + b"content-length:%d\n\n" % len(real.body) + real.body + b"\0"
        )
        world.await_value(TARGETS[2].key, "real")
    health = world.hub.health()
    assert world.got == {target.key: ["real"] if target is TARGETS[2] else [] for target in TARGETS}
    assert health.messages == 5001
    assert health.reconnects == 0
    assert Drop.UNREADABLE.value not in health.dropped
    assert (world.errors, guards.decoded) == ([], [])
