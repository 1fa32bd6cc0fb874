"""The turns of ``hub.py``: a broker, this process that publishes, and processes that receive."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import psutil

from airflow_provider_panda.payload import envelope, publish
from benchmarks.hub_receiver import DESTINATION, Order, await_frame, connect, key_of, signing_key_of
from demo.processes import environment
from deploy.idds.install import default_venv, python_of
from tests.stack.activemq import ActiveMQ
from tests.stack.guard import Guard

HERE: Final = Path(__file__).parent

PACE: Final = 1000.0
"""Messages per second where they are published at a steady pace."""
PACED: Final = 3000
"""Messages of a round of that."""

SETTLE: Final = 0.2
"""Seconds in which the broker fills the socket of a stopped receiver."""

HEAP_MB: Final = 512
"""The broker's memory, which has to hold all messages of a turn."""

IDDS_TASKS: Final = 50
"""Tasks that are waited for by iDDS's own AsyncResult."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to receive.

    :param name: one of ``hub_receiver.WAYS``.
    :param keys: tasks that the messages are of, and that wait in a hub.
    """

    name: str
    keys: int

    def __str__(self) -> str:
        names = {
            "socket": "a socket that counts frames (the broker)",
            "stomp": "bare stomp.py and json.loads",
            "hub": f"hub, {self.keys:,} waiting",
        }
        return names[self.name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one turn of one receiver came to.

    :param rate: messages per second.
    :param cpu: CPU seconds of the receiver per message.
    :param published: messages per second that the broker took.
    """

    rate: float
    cpu: float
    published: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lateness:
    """What one round at a steady pace came to.

    :param p50: median of the seconds from publishing to delivery.
    :param p99: 99th percentile of them.
    :param pace: messages per second that were published.
    :param behind: longest delay of the publisher in seconds.
    :param cpu: CPU seconds of the receiver per message.
    """

    p50: float
    p99: float
    pace: float
    behind: float
    cpu: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What it takes a process to wait.

    :param tasks: tasks that are waited for.
    :param sockets: connections to the broker.
    :param threads: threads besides the main one.
    :param seconds: from the first waiter until all are subscribed.
    """

    tasks: int
    sockets: int
    threads: int
    seconds: float

    @classmethod
    def of(cls, pid: int, port: int, *, tasks: int, seconds: float) -> Waiting:
        """Return what a process holds now.

        :param port: the broker's port.
        """
        process = psutil.Process(pid)
        sockets = sum(bool(each.raddr) and each.raddr.port == port for each in process.net_connections(kind="tcp"))
        return cls(tasks=tasks, sockets=sockets, threads=process.num_threads() - 1, seconds=seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a waiter of the hub takes.

    :param traced: bytes, as Python counts them.
    :param resident: bytes, as the kernel does.
    """

    traced: float
    resident: float


def percentile(figures: Sequence[float], share: float) -> float:
    """Return the smallest figure that at least this share of all figures does not exceed.

    :param share: above 0, at most 1.
    """
    return sorted(figures)[math.ceil(share * len(figures)) - 1]


def spread_over(messages: int, keys: int) -> list[int]:
    """Return which task each message is of: as even as can be over all of them, in an order without pattern."""
    of = [number * keys // messages for number in range(messages)]
    random.Random(0).shuffle(of)
    return of


def frame_of(task_key: str, signing_key: bytes, job: int, value: Any) -> bytes:
    """Return the frame by which a worker node sends a result, but for the receipt."""
    now = time.time()
    report = {
        "task_key": task_key, "job": job, "attempt": 1, "status": envelope.RETURNED, "encoding": "json",
        "payload": value, "exception": None, "start": now - 60.0, "end": now, "host": "wn0123.grid.example.org",
        "site": "BENCHMARK", "panda_id": 6_000_000_000 + job, "python": "3.11.7",
    }  # fmt: skip
    headers, body = envelope.message(report, envelope.sign(report, signing_key), name="f")
    return publish.encode_frame("SEND", {**headers, "destination": DESTINATION}, body.encode())


def frames_for(messages: int, keys: int) -> bytes:
    """Return the frames of one turn."""
    of = spread_over(messages, keys)
    signing = {number: (key_of(number), signing_key_of(number)) for number in set(of)}
    return b"".join(frame_of(*signing[number], job, {"auc": job / messages}) for job, number in enumerate(of))


class Publisher:
    """A login that may publish only, on one connection.

    :param broker: the broker.
    """

    def __init__(self, broker: ActiveMQ) -> None:
        self._socket = connect(broker.host, broker.port, broker.publisher.name, broker.publisher.passcode)

    def publish(self, frames: bytes) -> None:
        """Send frames, and wait until the broker has them all. A broker whose memory is full makes it fail in time."""
        self._socket.sendall(frames)
        last = {"destination": "/topic/benchmark.nobody", "receipt": "sent"}
        self._socket.sendall(publish.encode_frame("SEND", last, b"-"))
        await_frame(self._socket, b"RECEIPT")

    def pace(self, messages: int, keys: int) -> tuple[float, float]:
        """Send results at a steady pace; return the seconds that took, and the longest delay in seconds."""
        signing = [(key_of(number), signing_key_of(number)) for number in range(keys)]
        behind = 0.0
        began = time.time()
        for job, number in enumerate(spread_over(messages, keys)):
            due = began + job / PACE
            while (now := time.time()) < due:
                time.sleep(due - now)
            behind = max(behind, now - due)
            self._socket.sendall(frame_of(*signing[number], job, now))
        return time.time() - began, behind

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


class Receiver:
    """A receiving process, see ``hub_receiver.py``.

    :param broker: the broker.
    :param guard: ends the process if this one is gone.
    """

    def __init__(self, broker: ActiveMQ, guard: Guard) -> None:
        self._broker = broker
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "hub_receiver.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip
        guard.watch(self._process.pid)

    def __enter__(self) -> Receiver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()  # it may be stopped, and would not hear anything else
        self._process.communicate()

    def begin(self, way: Way, messages: int, *, stamped: bool = False) -> Waiting:
        """Have messages received, wait until they may come, and return what that takes."""
        broker = self._broker
        began = time.time()
        order = Order(
            way=way.name, host=broker.host, port=broker.port, keys=way.keys, messages=messages, stamped=stamped,
            login=broker.subscriber.name, passcode=broker.subscriber.passcode,
        )  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(dataclasses.asdict(order)) + "\n")
        self._process.stdin.flush()
        self.answer()
        return Waiting.of(self._process.pid, broker.port, tasks=way.keys, seconds=time.time() - began)

    def stop(self) -> None:
        """Have it do nothing, from now on."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Have it go on."""
        self._process.send_signal(signal.SIGCONT)

    def answer(self) -> dict[str, Any]:
        """Return its next answer."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the receiving process ended; why is above")
        told: dict[str, Any] = json.loads(line)
        return told


class Bench:
    """The broker, who publishes, and the receivers of each kind, which live as long as it does.

    :param broker: the broker.
    :param guard: ends the processes if this one is gone.
    :param messages: messages of a turn.

    :ivar waiting: what it took to wait in the last turn of each way.
    """

    def __init__(self, broker: ActiveMQ, guard: Guard, messages: int) -> None:
        self.broker, self.guard, self._messages = broker, guard, messages
        self._publisher = Publisher(broker)
        self._receivers: dict[str, Receiver] = {}
        self._frames: dict[int, bytes] = {}
        self._closing = contextlib.ExitStack()
        self._closing.callback(self._publisher.close)
        self.waiting: dict[Way, Waiting] = {}

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    def turn(self, way: Way) -> Turn:
        """Have a receiver find all messages in the broker, and take them."""
        if way.keys not in self._frames:
            self._frames[way.keys] = frames_for(self._messages, way.keys)
        receiver = self._receiver(way.name)
        self.waiting[way] = receiver.begin(way, self._messages)
        receiver.stop()
        began = time.time()
        self._publisher.publish(self._frames[way.keys])
        published = time.time() - began
        time.sleep(SETTLE)
        began = time.time()
        receiver.go_on()
        told = receiver.answer()
        return Turn(
            rate=self._messages / (told["at"] - began),
            cpu=told["cpu"] / self._messages,
            published=self._messages / published,
        )

    def paced(self, keys: int) -> Lateness:
        """Publish at a steady pace while tasks wait."""
        receiver = self._receiver("hub")
        receiver.begin(Way("hub", keys), PACED, stamped=True)
        took, behind = self._publisher.pace(PACED, keys)
        told = receiver.answer()
        seconds = told["seconds"]
        return Lateness(
            p50=percentile(seconds, 0.5), p99=percentile(seconds, 0.99), pace=PACED / took, behind=behind,
            cpu=told["cpu"] / PACED,
        )  # fmt: skip

    def memory(self, keys: int) -> Memory:
        """Return what one waiter takes, of as many in a process of their own."""
        grown = {}
        for count in ("resident", "traced"):
            with Receiver(self.broker, self.guard) as receiver:
                receiver.begin(Way(count, keys), 0)
                grown[count] = receiver.answer()["grown"] / keys
        return Memory(**grown)

    def _receiver(self, name: str) -> Receiver:
        if name not in self._receivers:
            self._receivers[name] = self._closing.enter_context(Receiver(self.broker, self.guard))
        return self._receivers[name]


@contextlib.contextmanager
def running_bench(messages: int) -> Iterator[Bench]:
    """Start a broker, and leave nothing behind, however this process ends."""
    guard = Guard()
    try:
        with ActiveMQ(heap_mb=HEAP_MB, for_long=True, on_start=guard.watch) as broker:
            guard.own(broker.log_file.parent)
            with Bench(broker, guard, messages) as bench:
                yield bench
    finally:
        guard.close()


def idds_waiting(bench: Bench) -> Waiting:
    """Return what it takes to wait for tasks by iDDS's own AsyncResult."""
    broker, login = bench.broker, bench.broker.subscriber
    process = subprocess.Popen(
        [
            str(python_of(default_venv())), str(HERE / "idds_waiters.py"), broker.host, str(broker.port),
            login.name, login.passcode, "/topic/benchmark.idds", str(IDDS_TASKS),
        ],
        stdout=subprocess.PIPE, text=True, env=environment(IDDS_CONFIG=os.devnull, PYTHONDONTWRITEBYTECODE="1"),
    )  # fmt: skip
    bench.guard.watch(process.pid)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError("iDDS's AsyncResult did not subscribe; why is above")
        return Waiting.of(process.pid, broker.port, tasks=IDDS_TASKS, seconds=json.loads(line)["seconds"])
    finally:
        process.kill()  # asked to stop, it takes a minute
        process.communicate()
