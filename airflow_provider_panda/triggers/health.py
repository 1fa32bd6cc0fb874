"""Tells how the waits of a process fare: to Airflow's metrics, and to a file for ``airflow panda status``.

One task per event loop, alive while anybody waits. It only adds counts up that others keep; what takes time is done in
a thread. No call to Airflow's supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final
from weakref import WeakKeyDictionary

from airflow_provider_panda import configuration
from airflow_provider_panda.broker.health import HubHealth, Latency
from airflow_provider_panda.broker.hub import Hub, changes_of, open_hubs
from airflow_provider_panda.triggers import metrics, reports
from airflow_provider_panda.triggers.connections import SharedConnection, WaitCounts, boards_of, connections_in_use
from airflow_provider_panda.triggers.reports import AddressReport, BrokerReport, PandaReport, Report

log = logging.getLogger(__name__)

EVERY: Final = 10.0
"""Seconds between two reports."""

TOGETHER: Final = 0.5
"""Seconds after a change of a connection's state until it is reported, so that changes of one moment share a report."""


class Sums:
    """Counts of things that come and go, added up by the name of what they belong to: they never fall."""

    def __init__(self) -> None:
        self._of: dict[str, Counter[str]] = {}
        self._seen: dict[object, Counter[str]] = {}

    def take(self, source: object, name: str, counts: Mapping[str, int]) -> None:
        """Add what a source counted since it was last taken.

        :param source: what counts.
        :param name: what it belongs to.
        :param counts: its counts since it began.
        """
        before = self._seen.get(source, Counter())
        of = self._of.setdefault(name, Counter())
        for what, count in counts.items():
            of[what] += count - before[what]
        self._seen[source] = Counter(counts)

    def forget(self, kept: Collection[object]) -> None:
        """Forget the sources that are gone; what they counted stays in the sums."""
        for source in [each for each in self._seen if each not in kept]:
            del self._seen[source]

    def of(self, name: str) -> Mapping[str, int]:
        """Return the sums of a name."""
        return self._of.get(name, Counter())

    def names(self) -> list[str]:
        """Return the names that there are sums of."""
        return list(self._of)


class Reporter:
    """Reports of one event loop.

    :param every: seconds between two reports.
    """

    def __init__(self, *, every: float = EVERY) -> None:
        self._every = every
        self._loop = asyncio.get_running_loop()
        self._counts: dict[WaitCounts, str | None] = {}
        self._hub_names: dict[Hub, str] = {}
        self._brokers, self._connections = Sums(), Sums()
        self._latency: dict[str, Latency] = {}
        self._last_messages: dict[str, float] = {}
        self._emitted: Report | None = None
        self._file: Path | None = None
        self._warned: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def begin(self, shared: SharedConnection) -> None:
        """Report while somebody waits with a connection."""
        self._counts[shared.counts] = shared.panda.broker_conn_id
        if self._task is None or self._task.done():
            # In a context of its own: the log of the task that happened to wait first is not the place for its lines.
            self._task = self._loop.create_task(self._run(), name="panda-hub-health", context=contextvars.Context())

    async def _run(self) -> None:
        changes = changes_of(self._loop)
        changes.set()  # the first report comes at once
        try:
            while True:
                await self._next(changes)
                try:
                    report = self._collect()
                except Exception as error:
                    self._warn("counts", f"How the waits fare cannot be told: {error!r}")
                else:
                    await asyncio.to_thread(self._publish, report)
                if not self._wanted():
                    return
        finally:
            if self._file is not None:
                self._file.unlink(missing_ok=True)
                self._file = None

    async def _next(self, changes: asyncio.Event) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._every):
                await changes.wait()
                await asyncio.sleep(TOGETHER)
        changes.clear()

    def _wanted(self) -> bool:
        """Whether anybody waits, or a hub is still open whose end is to be told."""
        return any(counts.waiting for counts in self._counts) or bool(open_hubs())

    # --- what is told -------------------------------------------------------------------------------------------

    def _collect(self) -> Report:
        brokers = self._collect_brokers()
        connections = self._collect_connections()
        return Report(
            host=reports.this_host(),
            pid=reports.own_pid(),
            born=0.0,
            at=time.time(),
            every=self._every,
            brokers=tuple(brokers),
            connections=tuple(connections),
        )

    def _collect_brokers(self) -> Iterator[BrokerReport]:
        hubs = open_hubs()
        health: dict[str, list[HubHealth]] = {}
        latency: dict[str, Latency] = {}
        for hub in {**self._hub_names, **dict.fromkeys(hubs)}:
            name = self._hub_names.get(hub) or self._name_of(hub)
            self._hub_names[hub] = name
            found = hub.health()
            counts = {"messages": found.messages, "delivered": found.delivered, "reconnects": found.reconnects}
            drops = {f"dropped {reason}": count for reason, count in found.dropped.items()}
            self._brokers.take(hub, name, {**counts, **drops})
            latency[name] = _together(latency.get(name, Latency()), hub.take_latency())
            if found.last_message is not None:
                self._last_messages[name] = max(found.last_message, self._last_messages.get(name, 0.0))
            if hub in hubs:
                health.setdefault(name, []).append(found)
        self._hub_names = {hub: name for hub, name in self._hub_names.items() if hub in hubs}
        self._brokers.forget(hubs)
        for name in self._brokers.names():
            self._latency[name] = _together(self._latency.get(name, Latency()), latency.get(name, Latency()))
            yield self._broker(name, health.get(name, []), latency.get(name, Latency()))

    def _broker(self, name: str, health: list[HubHealth], latency: Latency) -> BrokerReport:
        sums = self._brokers.of(name)
        return BrokerReport(
            name=name,
            addresses=tuple(
                AddressReport(address=each.address, state=each.state.value, since=each.since, problem=each.problem)
                for hub in health
                for each in hub.addresses
            ),
            waiting=sum(hub.waiting for hub in health),
            messages=sums["messages"],
            delivered=sums["delivered"],
            dropped={what.removeprefix("dropped "): n for what, n in sums.items() if what.startswith("dropped ")},
            reconnects=sums["reconnects"],
            inbox_bytes=sum(hub.inbox_bytes for hub in health),
            last_message=self._last_messages.get(name),
            results=self._latency[name].results,
            latency_total=self._latency[name].total,
            latency_mean=latency.mean,
            latency_longest=latency.longest,
        )

    def _name_of(self, hub: Hub) -> str:
        """Return the id of a hub's connection, or where it leads if the connection was changed meanwhile."""
        for shared in connections_in_use():
            if shared.broker == hub.endpoint and shared.panda.broker_conn_id:
                return shared.panda.broker_conn_id
        return ",".join(f"{host}:{port}" for host, port in hub.endpoint.addresses)

    def _collect_connections(self) -> Iterator[PandaReport]:
        brokers: dict[str, str | None] = {}
        waiting: Counter[str] = Counter()
        boards = [(shared.panda.conn_id, board) for shared in connections_in_use() for board in boards_of(shared)]
        for counts, broker in list(self._counts.items()):
            brokers[counts.conn_id] = broker
            waiting[counts.conn_id] += counts.waiting
            self._connections.take(counts, counts.conn_id, {"reconciliations": counts.reconciliations})
        for conn_id, board in boards:
            listings = {"listings": board.listings, "failed_listings": board.failed_listings}
            self._connections.take(board, conn_id, listings)
        current = {shared.counts for shared in connections_in_use()}
        self._counts = {each: broker for each, broker in self._counts.items() if each.waiting or each in current}
        self._connections.forget([*self._counts, *(board for _, board in boards)])
        for name in self._connections.names():
            sums = self._connections.of(name)
            yield PandaReport(
                name=name,
                broker=brokers.get(name),
                waiting=waiting[name],
                reconciliations=sums["reconciliations"],
                listings=sums["listings"],
                failed_listings=sums["failed_listings"],
            )

    # --- how it is told: in a thread ----------------------------------------------------------------------------

    def _publish(self, report: Report) -> None:
        try:
            metrics.emit(metrics.samples(self._emitted, report))
            self._emitted = report
        except Exception as error:
            self._warn("metrics", f"Airflow's metrics did not take how the waits fare: {error!r}")
        try:
            self._file = reports.write(reports.with_birth(report), reports.folder_of(configuration.home()))
        except Exception as error:
            self._warn("file", f"`airflow panda status` cannot be told how the waits fare: {error!r}")

    def _warn(self, kind: str, text: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            log.warning("%s. The waits themselves are not affected; this is said once", text)


def _together(one: Latency, other: Latency) -> Latency:
    return Latency(one.results + other.results, one.total + other.total, max(one.longest, other.longest))


_reporters: WeakKeyDictionary[asyncio.AbstractEventLoop, Reporter] = WeakKeyDictionary()


@contextlib.contextmanager
def waiting_with(shared: SharedConnection) -> Iterator[None]:
    """Count one who waits with a connection, inside of the context, and have it told how the waits fare."""
    loop = asyncio.get_running_loop()
    if loop not in _reporters:
        _reporters[loop] = Reporter()
    shared.counts.waiting += 1
    try:
        _reporters[loop].begin(shared)
        yield
    finally:
        shared.counts.waiting -= 1
