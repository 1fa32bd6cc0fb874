"""How a hub fares: counts as they are made, and the value that shows them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from airflow_provider_panda.broker.connection import Connection, State
from airflow_provider_panda.broker.screen import Drop


class Tally:
    """Counts of one connection. Every field is written by one thread only, so none needs a lock."""

    __slots__ = ("drained", "dropped", "flushed", "last_message", "messages", "posted")

    def __init__(self) -> None:
        self.messages = 0
        self.dropped: Counter[Drop] = Counter()
        self.last_message: float | None = None
        self.posted = 0
        """Bytes given to the loop; written by the connection's thread, as all above."""
        self.flushed = 0
        """Bytes that the loop took; written by the loop."""
        self.drained = threading.Event()


class Past:
    """Counts of connections that are over, so that the sums of a hub never fall."""

    __slots__ = ("losses", "tally")

    def __init__(self) -> None:
        self.tally = Tally()
        self.losses = 0

    def take(self, connection: Connection, tally: Tally) -> None:
        """Add the counts of a connection of which nothing more will come."""
        self.losses += connection.losses
        self.tally.messages += tally.messages
        self.tally.dropped.update(tally.dropped)
        times = [each for each in (self.tally.last_message, tally.last_message) if each is not None]
        self.tally.last_message = max(times, default=None)


@dataclass(frozen=True, slots=True)
class Latency:
    """How late results were handed over, counted from the end of the function by the clock of its node.

    :param results: number of results.
    :param total: seconds of all of them together.
    :param longest: seconds of the latest one.
    """

    results: int = 0
    total: float = 0.0
    longest: float = 0.0

    @property
    def mean(self) -> float:
        """Seconds of one result; 0 of none."""
        return self.total / self.results if self.results else 0.0

    def with_one_more(self, end: float | None) -> Latency:
        """Return it with a result that is handed over now.

        A clock that is ahead of ours counts as no delay, and a time that is none is not counted.

        :param end: Unix time at which the function ended, as its node says it.
        """
        late = None if end is None else time.time() - end
        if late is None or not late < _NO_DELAY:
            return self
        late = max(0.0, late)
        return Latency(self.results + 1, self.total + late, max(self.longest, late))


_NO_DELAY: Final = 90 * 86400.0
"""Seconds above which a delay is none, but a clock that was never set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressHealth:
    """How one connection fares.

    :param address: name, IP address and port.
    :param state: a :class:`~airflow_provider_panda.broker.connection.State`.
    :param since: Unix time in seconds since which it listens, or does not.
    :param problem: why its last attempt ended, or None.
    :param attempts: connections tried.
    :param losses: how often it listened and lost that.
    """

    address: str
    state: State
    since: float
    problem: str | None
    attempts: int
    losses: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HubHealth:
    """How a hub fares.

    :param addresses: its connections.
    :param messages: messages received.
    :param delivered: results and status messages handed over.
    :param dropped: messages dropped, by reason.
    :param waiting: tasks waited for.
    :param reconnects: how often a connection listened, was lost, and may have come back.
    :param last_message: Unix time of the last message, or None.
    :param inbox_bytes: bytes of messages that wait for the loop.
    """

    addresses: tuple[AddressHealth, ...]
    messages: int
    delivered: int
    dropped: Mapping[str, int]
    waiting: int
    reconnects: int
    last_message: float | None
    inbox_bytes: int

    @property
    def connected(self) -> tuple[str, ...]:
        """Addresses that are listened to."""
        return tuple(each.address for each in self.addresses if each.state is State.LISTENING)


def health_of(
    connections: Iterable[Connection], counts: Mapping[Connection, Tally], *, past: Past, delivered: int, waiting: int
) -> HubHealth:
    """Return how a hub fares.

    :param connections: its connections.
    :param counts: their counts, and those of connections that are ending.
    :param past: counts of those that have ended.
    :param delivered: results and status messages handed over.
    :param waiting: tasks waited for.
    """
    tallies = [past.tally, *counts.values()]
    dropped: Counter[str] = Counter()
    for tally in tallies:
        for drop, count in tally.dropped.copy().items():
            dropped[drop.value] += count
    addresses = tuple(
        AddressHealth(
            address=str(each.address),
            state=each.state,
            since=each.since,
            problem=None if each.problem is None else str(each.problem),
            attempts=each.attempts,
            losses=each.losses,
        )
        for each in connections
    )
    return HubHealth(
        addresses=addresses,
        messages=sum(tally.messages for tally in tallies),
        delivered=delivered,
        dropped=dict(dropped),
        waiting=waiting,
        reconnects=past.losses + sum(each.losses for each in counts),
        last_message=max((tally.last_message for tally in tallies if tally.last_message), default=None),
        inbox_bytes=sum(tally.posted - tally.flushed for tally in tallies),
    )
