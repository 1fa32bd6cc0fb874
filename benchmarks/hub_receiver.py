"""A process that receives: waiters of the hub, stomp.py alone, or a bare socket. The companion of ``hub.py``.

Each line of stdin is an :class:`Order` as JSON. It is answered by a line of JSON once its messages may come, and by
another one after the last of them: when that one arrived, and the CPU seconds since the first answer. Nothing else
happens in between, so the process may be stopped (SIGSTOP) meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil
import stomp

if __name__ == "__main__":
    sys.path.pop(0)  # this folder, where airflow.py would be taken for Airflow
sys.path.insert(0, str(Path(__file__).parents[1]))

from airflow_provider_panda.broker.endpoint import BrokerEndpoint
from airflow_provider_panda.broker.hub import Hub, Waiter, get_hub
from airflow_provider_panda.grid.task import instance_id, task_key
from airflow_provider_panda.payload import envelope, publish
from airflow_provider_panda.payload.result import JobResult

SECRET: Final = "benchmark-instance-secret"
INSTANCE: Final = instance_id(SECRET)
DESTINATION: Final = "/topic/airflow.panda.results"

PATIENCE: Final = 120.0
"""Seconds after which an order is given up."""

HEARTBEAT: Final = 2 * PATIENCE
"""Seconds between heart-beats, since a stopped process sends none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to receive, and how.

    :param way: one of :data:`WAYS`.
    :param host: host of the broker.
    :param port: its STOMP port.
    :param login: user that may subscribe.
    :param passcode: password of the user.
    :param keys: tasks that are waited for.
    :param messages: how many messages will come.
    :param stamped: whether the value of each result is the Unix time of its publishing.
    """

    way: str
    host: str
    port: int
    login: str
    passcode: str = field(repr=False)
    keys: int
    messages: int
    stamped: bool = False


def key_of(number: int) -> str:
    """Return the key of a task."""
    return task_key(INSTANCE, f"task instance {number}")


def signing_key_of(number: int) -> bytes:
    """Return the signing key of a task."""
    return envelope.derive_key(SECRET, key_of(number))


def answer(**told: Any) -> None:
    """Write one line of JSON."""
    print(json.dumps(told), flush=True)


class Arrivals:
    """Counts what arrives, and tells of it after the last.

    :param expected: how many will come.
    :param on_last: called when the last one came.
    """

    def __init__(self, expected: int, on_last: Callable[[], None]) -> None:
        self._left, self._on_last = expected, on_last
        self._seconds: list[float] = []
        self._cpu = self._at = 0.0

    def begin(self) -> None:
        """Say that messages may come."""
        gc.collect()
        self._cpu = time.process_time()
        answer(ready=True)

    def take(self, _: object) -> None:
        """Count one."""
        self._left -= 1
        if not self._left:
            self._at, self._cpu = time.time(), time.process_time() - self._cpu
            self._on_last()

    def take_stamped(self, result: JobResult) -> None:
        """Count one, and note how long it took."""
        self._seconds.append(time.time() - result.payload)
        self.take(result)

    def look_elsewhere(self) -> None:
        """Stand in for a trigger's look at PanDA's records after a connection was lost."""

    def end(self) -> None:
        """Tell of all."""
        answer(at=self._at, cpu=self._cpu, seconds=self._seconds)


def wait_for(hub: Hub, number: int, arrivals: Arrivals, *, stamped: bool = False) -> Waiter:
    """Return a waiter for a task, with bound methods to call, as a trigger makes it."""
    return hub.wait_for(
        key_of(number),
        key=signing_key_of(number),
        deliver=arrivals.take_stamped if stamped else arrivals.take,
        on_resubscribed=arrivals.look_elsewhere,
    )


def endpoint_of(order: Order) -> BrokerEndpoint:
    """Return the broker of an order, for a hub."""
    return BrokerEndpoint(
        addresses=((order.host, order.port),), login=order.login, passcode=order.passcode,
        result_destination=DESTINATION, heartbeat=HEARTBEAT,
    )  # fmt: skip


async def by_hub(order: Order) -> None:
    """Receive by as many waiters of one hub as there are keys."""
    done = asyncio.Event()
    arrivals = Arrivals(order.messages, done.set)
    hub = get_hub(endpoint_of(order), INSTANCE)
    with contextlib.ExitStack() as waiting:
        for number in range(order.keys):
            waiter = waiting.enter_context(wait_for(hub, number, arrivals, stamped=order.stamped))
        await waiter.subscribed(PATIENCE)
        arrivals.begin()
        async with asyncio.timeout(PATIENCE):
            await done.wait()
    health = hub.health()
    await hub.aclose()
    if health.dropped or health.messages != order.messages:
        raise RuntimeError(f"not every message was delivered once: {health}")
    arrivals.end()


def by_stomp(order: Order) -> None:
    """Receive by stomp.py and decode the JSON of the bodies, and no more."""
    subscribed, done = threading.Event(), threading.Event()
    arrivals = Arrivals(order.messages, done.set)

    class Listener(stomp.ConnectionListener):  # type: ignore[misc]
        def on_receipt(self, frame: Any) -> None:
            subscribed.set()

        def on_message(self, frame: Any) -> None:
            arrivals.take(json.loads(frame.body))

    connection = stomp.Connection12([(order.host, order.port)])
    connection.set_listener("bare", Listener())
    connection.connect(order.login, order.passcode, wait=True)
    connection.subscribe(DESTINATION, id="bare", ack="auto", headers={"receipt": "subscribed"})
    if not subscribed.wait(PATIENCE):
        raise RuntimeError("stomp.py is not subscribed")
    arrivals.begin()
    if not done.wait(PATIENCE):
        raise RuntimeError("stomp.py did not receive all")
    connection.disconnect()
    arrivals.end()


def by_socket(order: Order) -> None:
    """Receive without looking: only the ends of frames are counted. It is what the broker can send."""
    arrivals = Arrivals(1, lambda: None)
    subscribe = {"destination": DESTINATION, "id": "socket", "ack": "auto", "receipt": "subscribed"}
    with connect(order.host, order.port, order.login, order.passcode) as plain:
        plain.sendall(publish.encode_frame("SUBSCRIBE", subscribe))
        await_frame(plain, b"RECEIPT")
        arrivals.begin()
        left = order.messages
        while left > 0:
            left -= plain.recv(64 * 1024).count(0)
        arrivals.take(None)
    arrivals.end()


def connect(host: str, port: int, login: str, passcode: str) -> socket.socket:
    """Return a socket that is logged in to a broker."""
    plain = socket.create_connection((host, port), timeout=PATIENCE)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    headers = {"accept-version": "1.2", "host": host, "login": login, "passcode": passcode, "heart-beat": "0,0"}
    plain.sendall(publish.encode_frame("CONNECT", headers))
    await_frame(plain, b"CONNECTED")
    return plain


def await_frame(plain: socket.socket, command: bytes) -> None:
    """Read up to the end of the one frame that is on its way.

    :raises RuntimeError: it is another one.
    """
    came = b""
    while b"\0" not in came:
        piece = plain.recv(8192)
        came += piece
        if not piece:
            break
    if not came.lstrip().startswith(command):
        raise RuntimeError(f"no {command.decode()} but {came!r:.300}")


async def by_nobody(order: Order, size: Callable[[], int]) -> None:
    """Tell how much a size grows with the waiters; no message has to come."""
    arrivals = Arrivals(0, lambda: None)
    hub = get_hub(endpoint_of(order), INSTANCE)
    with wait_for(hub, order.keys, arrivals) as other:
        await other.subscribed(PATIENCE)
        gc.collect()
        before = size()
        for number in range(order.keys):
            wait_for(hub, number, arrivals).__enter__()  # left when the hub is closed: a list of them would count too
        grown = size() - before
    await hub.aclose()
    answer(ready=True)
    answer(grown=grown)


async def resident(order: Order) -> None:
    """Tell the bytes of memory that waiters take, as the kernel counts them."""
    await by_nobody(order, lambda: int(psutil.Process().memory_info().rss))


async def traced(order: Order) -> None:
    """Tell the bytes of memory that waiters take, as Python counts them."""
    tracemalloc.start()
    await by_nobody(order, lambda: tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()


WAYS: Final[dict[str, Callable[[Order], Any]]] = {
    "hub": by_hub,
    "stomp": by_stomp,
    "socket": by_socket,
    "resident": resident,
    "traced": traced,
}


def main() -> None:
    """Carry out one order after the other."""
    for line in sys.stdin:
        order = Order(**json.loads(line))
        pending = WAYS[order.way](order)
        if pending is not None:
            asyncio.run(pending)


if __name__ == "__main__":
    main()
