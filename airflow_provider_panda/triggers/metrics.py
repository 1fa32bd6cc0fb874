"""Which metrics a report amounts to, and the way to Airflow's own (``[metrics]`` in airflow.cfg).

They are emitted as Airflow's triggerer emits its own in the same process: whatever it is configured for (StatsD,
OpenTelemetry, Datadog) gets them, with Airflow's prefix and its allow and block lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

from airflow_provider_panda.triggers.reports import BrokerReport, PandaReport, Report


class Kind(Enum):
    """What a metric is."""

    GAUGE = "gauge"
    COUNTER = "counter"
    TIMER = "timer"
    """In seconds here; StatsD carries milliseconds."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one metric.

    :param kind: what it is.
    :param name: its name, without the connection's.
    :param connection: id of the Airflow connection, which is the last part of the name and a tag.
    :param value: present value, what was added, or seconds.
    """

    kind: Kind
    name: str
    connection: str
    value: float


BROKER_COUNTERS = ("messages", "delivered", "reconnects")
PANDA_COUNTERS = ("reconciliations", "listings", "failed_listings")


def samples(before: Report | None, now: Report) -> list[Sample]:
    """Return what two reports of one process amount to: gauges always, counters and timers where something was added.

    :param before: the report that was emitted last, or None.
    :param now: the present one.
    """
    brokers = {each.name: each for each in before.brokers} if before else {}
    connections = {each.name: each for each in before.connections} if before else {}
    found: list[Sample] = []
    for broker in now.brokers:
        found += _of_broker(brokers.get(broker.name, BrokerReport(name=broker.name)), broker)
    for panda in now.connections:
        found += _of_panda(connections.get(panda.name, PandaReport(name=panda.name)), panda)
    return found


def _of_broker(before: BrokerReport, now: BrokerReport) -> Iterator[Sample]:
    yield Sample(Kind.GAUGE, "panda.hub.connected", now.name, len(now.connected))
    yield Sample(Kind.GAUGE, "panda.hub.addresses", now.name, len(now.addresses))
    yield Sample(Kind.GAUGE, "panda.hub.waiting", now.name, now.waiting)
    yield Sample(Kind.GAUGE, "panda.hub.inbox_bytes", now.name, now.inbox_bytes)
    for name in BROKER_COUNTERS:
        yield from _added(f"panda.hub.{name}", now.name, getattr(before, name), getattr(now, name))
    for reason, count in now.dropped.items():
        yield from _added(f"panda.hub.dropped.{reason}", now.name, before.dropped.get(reason, 0), count)
    if now.results > before.results:
        yield Sample(Kind.TIMER, "panda.hub.latency", now.name, now.latency_mean)
        yield Sample(Kind.TIMER, "panda.hub.latency_max", now.name, now.latency_longest)


def _of_panda(before: PandaReport, now: PandaReport) -> Iterator[Sample]:
    yield Sample(Kind.GAUGE, "panda.waiting", now.name, now.waiting)
    for name in PANDA_COUNTERS:
        yield from _added(f"panda.{name}", now.name, getattr(before, name), getattr(now, name))


def _added(name: str, connection: str, before: int, now: int) -> Iterator[Sample]:
    if now > before:
        yield Sample(Kind.COUNTER, name, connection, now - before)


def emit(found: Iterable[Sample]) -> None:
    """Hand samples to Airflow's metrics. May block for as long as a name look-up, so not in an event loop."""
    # Not the SDK's: a triggerer sets up the core's alone (airflow/jobs/triggerer_job_runner.py, 3.3.2).
    from airflow.observability.stats import Stats, normalize_name_for_stats

    for sample in found:
        name = f"{sample.name}.{normalize_name_for_stats(sample.connection, log_warning=False)}"
        tags: Mapping[str, str] = {"connection": sample.connection}
        if sample.kind is Kind.GAUGE:
            Stats.gauge(name, sample.value, tags=dict(tags))
        elif sample.kind is Kind.COUNTER:
            Stats.incr(name, int(sample.value), tags=dict(tags))
        else:
            Stats.timing(name, timedelta(seconds=sample.value), tags=dict(tags))
