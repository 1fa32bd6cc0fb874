"""How a hub fares: counts as they are made, and the value that shows them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressHealth:
    """How one connection fares.

    :param address: name, IP address and port.
    :param state: a :class:`~airflow_provider_panda.broker.connection.State`.
    :param problem: why its last attempt ended, or None.
    :param attempts: connections tried.
    :param losses: how often it listened and lost that.
    """

    address: str
    state: State
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
    """

    addresses: tuple[AddressHealth, ...]
    messages: int
    delivered: int
    dropped: Mapping[str, int]
    waiting: int
    reconnects: int
    last_message: float | None

    @property
    def connected(self) -> tuple[str, ...]:
        """Addresses that are listened to."""
        return tuple(each.address for each in self.addresses if each.state is State.LISTENING)


def health_of(
    connections: Iterable[Connection], tallies: Iterable[Tally], *, delivered: int, waiting: int
) -> HubHealth:
    """Return how a hub fares.

    :param connections: its connections.
    :param tallies: their counts, and those of connections that ended.
    :param delivered: results and status messages handed over.
    :param waiting: tasks waited for.
    """
    tallies = list(tallies)
    dropped: Counter[str] = Counter()
    for tally in tallies:
        for drop, count in tally.dropped.copy().items():
            dropped[drop.value] += count
    addresses = tuple(
        AddressHealth(
            address=str(each.address),
            state=each.state,
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
        reconnects=sum(each.losses for each in addresses),
        last_message=max((tally.last_message for tally in tallies if tally.last_message), default=None),
    )
