"""Which metrics two reports amount to."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from airflow_provider_panda.broker.screen import Drop
from airflow_provider_panda.triggers.metrics import Kind, Sample, samples
from airflow_provider_panda.triggers.reports import AddressReport, BrokerReport, PandaReport, Report

LISTENS = AddressReport(address="a:1", state="listening", since=0.0)
BROKER = BrokerReport(
    name="b", addresses=(LISTENS, replace(LISTENS, address="c:1", state="waiting")), waiting=4, messages=10,
    delivered=7, dropped={"not_awaited": 2, "malformed": 1}, reconnects=1, inbox_bytes=5, results=7, latency_total=14.0,
    latency_mean=2.0, latency_longest=6.0,
)  # fmt: skip
PANDA = PandaReport(name="p", broker="b", waiting=4, reconciliations=3, listings=2, failed_listings=1)
REPORT = Report(host="h", pid=1, born=0.0, at=0.0, every=10.0, brokers=(BROKER,), connections=(PANDA,))


def told(before: Report | None, now: Report) -> dict[str, tuple[Kind, float]]:
    found = samples(before, now)
    assert len({(each.name, each.connection) for each in found}) == len(found)
    return {f"{each.name}.{each.connection}": (each.kind, each.value) for each in found}


def test_the_first_report_counts_from_nothing() -> None:
    assert told(None, REPORT) == {
        "panda.hub.connected.b": (Kind.GAUGE, 1),
        "panda.hub.addresses.b": (Kind.GAUGE, 2),
        "panda.hub.waiting.b": (Kind.GAUGE, 4),
        "panda.hub.inbox_bytes.b": (Kind.GAUGE, 5),
        "panda.hub.messages.b": (Kind.COUNTER, 10),
        "panda.hub.delivered.b": (Kind.COUNTER, 7),
        "panda.hub.reconnects.b": (Kind.COUNTER, 1),
        "panda.hub.dropped.not_awaited.b": (Kind.COUNTER, 2),
        "panda.hub.dropped.malformed.b": (Kind.COUNTER, 1),
        "panda.hub.latency.b": (Kind.TIMER, 2.0),
        "panda.hub.latency_max.b": (Kind.TIMER, 6.0),
        "panda.waiting.p": (Kind.GAUGE, 4),
        "panda.reconciliations.p": (Kind.COUNTER, 3),
        "panda.listings.p": (Kind.COUNTER, 2),
        "panda.failed_listings.p": (Kind.COUNTER, 1),
    }


def test_where_nothing_happened_only_gauges_are_told() -> None:
    found = samples(REPORT, REPORT)
    assert {each.kind for each in found} == {Kind.GAUGE}
    assert len(found) == 5


def test_counters_tell_what_was_added() -> None:
    later = replace(BROKER, messages=13, dropped={**BROKER.dropped, "malformed": 3, "too_large": 1})
    now = replace(REPORT, brokers=(later,), connections=(replace(PANDA, reconciliations=4),))
    counted = {name: value for name, (kind, value) in told(REPORT, now).items() if kind is Kind.COUNTER}
    assert counted == {
        "panda.hub.messages.b": 3,
        "panda.hub.dropped.malformed.b": 2,
        "panda.hub.dropped.too_large.b": 1,
        "panda.reconciliations.p": 1,
    }


def test_a_broker_that_nobody_waits_for_any_more_is_not_connected() -> None:
    now = replace(REPORT, brokers=(replace(BROKER, addresses=(), waiting=0),))
    assert Sample(Kind.GAUGE, "panda.hub.connected", "b", 0) in samples(REPORT, now)


def test_every_metric_is_described_and_no_other() -> None:
    page = (Path(__file__).parents[3] / "docs/monitoring.md").read_text()
    described = dict(re.findall(r"(?m)^\| `(panda\.[\w.]+)\.CONN` \| (\w+) \|", page))
    made = {re.sub(r"dropped\.\w+", "dropped.REASON", each.name): each.kind.value for each in samples(None, REPORT)}
    assert described == made
    assert all(f"`{reason.value}`" in page for reason in Drop)
