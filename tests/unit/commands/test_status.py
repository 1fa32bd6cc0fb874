"""What ``airflow panda status`` makes of reports and deferred tasks, and what it is wrong about for a probe."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_panda.commands.status import Deferred, Scene, _only, alive, connections_to_ask, judge, show
from airflow_provider_panda.commands.steps import Verdict
from airflow_provider_panda.triggers.reports import AddressReport, BrokerReport, PandaReport, Report

NOW = 1_800_000_000.0
LISTENS = AddressReport(address="b(10.0.0.1):61613", state="listening", since=NOW - 7000)
AWAY = AddressReport(
    address="b(10.0.0.2):61613", state="waiting", since=NOW - 90, problem="broker b(10.0.0.2):61613: Connection refused"
)
JUST_LOST = replace(AWAY, since=NOW - 5)


def report(*addresses: AddressReport, age: float = 3.0, **broker: Any) -> Report:
    return Report(
        host="tr1", pid=7, born=NOW - 9000, at=NOW - age, every=10.0,
        brokers=(BrokerReport(name="broker", addresses=addresses, waiting=2, **broker),),
        connections=(PandaReport(name="panda_default", broker="broker", waiting=2, listings=4, failed_listings=1),),
    )  # fmt: skip


def scene(*found: Report, deferred: tuple[Deferred, ...] | None = ()) -> Scene:
    return Scene(host="tr1", now=NOW, reports=found, folder="/home/panda/hubs", deferred=deferred)


def verdicts(of: Scene) -> dict[str, Verdict]:
    return {finding.step: finding.verdict for finding in judge(of)}


def text(of: Scene) -> str:
    return "\n".join(finding.line for finding in judge(of))


@pytest.mark.parametrize(
    ("addresses", "verdict", "says"),
    [
        ((LISTENS,), Verdict.OK, "listens to b(10.0.0.1):61613 for 117 min"),
        (
            (LISTENS, AWAY),
            Verdict.WARN,
            "b(10.0.0.2):61613 not listened to for 90 s (Connection refused); 1 other(s) are",
        ),
        ((JUST_LOST,), Verdict.WARN, "not listened to for 5 s"),
        ((JUST_LOST, AWAY), Verdict.WARN, "not listened to for 90 s"),
        ((AWAY,), Verdict.WRONG, "results come from PanDA's record meanwhile"),
        ((), Verdict.OK, "nobody waits for a message"),
    ],
    ids=["listens", "one of two", "just lost", "the last one just lost", "away", "idle"],
)
def test_a_broker_is_judged_by_its_addresses(addresses: tuple[AddressReport, ...], verdict: Verdict, says: str) -> None:
    of = scene(report(*addresses))
    assert verdicts(of)["broker broker (process 7)"] is verdict
    assert says in text(of)


def test_what_is_counted_is_told() -> None:
    told = text(
        scene(
            report(
                LISTENS, messages=12, delivered=9, dropped={"not_awaited": 2, "bad_signature": 1}, reconnects=3,
                last_message=NOW - 40, results=9, latency_total=4.5, inbox_bytes=3 * 2**20,
            )
        )
    )  # fmt: skip
    for piece in (
        "2 waiting", "12 message(s), the last one 40 s ago", "9 delivered", "1 dropped: bad_signature",
        "2 dropped: not_awaited", "3 connection(s) lost so far", "0.5 s from the end of a function to its delivery",
        "3.0 MiB wait", "1 of 4 listing(s) failed",
    ):  # fmt: skip
        assert piece in told


@pytest.mark.parametrize(("age", "verdict"), [(39.0, Verdict.OK), (41.0, Verdict.WRONG)])
def test_a_report_that_is_old_tells_of_a_triggerer_that_hangs(age: float, verdict: Verdict) -> None:
    of = scene(report(LISTENS, age=age))
    assert verdicts(of)["triggerer (tr1, process 7)"] is verdict
    assert [finding.verdict for finding in alive(of)] == [verdict]
    # What one that hangs said last is no news.
    assert ("broker broker (process 7)" in verdicts(of)) is (verdict is Verdict.OK)


def test_a_probe_is_not_about_the_broker() -> None:
    assert [finding.verdict for finding in alive(scene(report(AWAY), deferred=None))] == [Verdict.OK]
    assert [finding.verdict for finding in alive(scene(deferred=None))] == [Verdict.OK]


@pytest.mark.parametrize(
    ("deferred", "reports", "verdict", "says"),
    [
        (Deferred(host="tr1", tasks=3, settled=2), (), Verdict.WRONG, "no process of this host reports in /home/panda"),
        (Deferred(host="tr1", tasks=3, settled=0), (), Verdict.OK, "3 task(s) wait"),
        (Deferred(host="tr1", tasks=3, settled=2), (report(LISTENS),), Verdict.OK, "3 task(s) wait"),
        (Deferred(host="tr2", tasks=5, settled=5), (), Verdict.OK, "this command says there"),
        (Deferred(host=None, tasks=1, settled=0), (), Verdict.OK, "1 task(s) wait"),
        (Deferred(host=None, tasks=1, settled=1), (), Verdict.WRONG, "no triggerer has taken them"),
    ],
    ids=["silent", "fresh", "told", "elsewhere", "to be taken", "taken by nobody"],
)
def test_deferred_tasks_need_a_triggerer_that_reports(
    deferred: Deferred, reports: tuple[Report, ...], verdict: Verdict, says: str
) -> None:
    of = scene(*reports, deferred=(deferred,))
    assert verdicts(of)[f"deferred tasks ({deferred.host or 'no triggerer'})"] is verdict
    assert says in text(of)


def test_which_connections_are_asked() -> None:
    assert connections_to_ask(scene(report(LISTENS)), None) == ["panda_default"]
    idle = replace(report(LISTENS), connections=(PandaReport(name="other"),))
    assert connections_to_ask(scene(idle), None) == ["panda_default"]
    assert connections_to_ask(scene(idle), "named") == ["named"]


def test_a_named_connection_is_told_with_its_broker_only() -> None:
    two = replace(
        report(LISTENS),
        brokers=(BrokerReport(name="broker"), BrokerReport(name="other_broker")),
        connections=(PandaReport(name="panda_default", broker="broker"), PandaReport(name="o", broker="other_broker")),
    )
    only = _only(two, "o")
    assert [each.name for each in only.brokers] == ["other_broker"]
    assert [each.name for each in only.connections] == ["o"]
    assert _only(two, None) == two


def test_json_and_exit_code() -> None:
    lines: list[str] = []
    good = scene(report(LISTENS), deferred=(Deferred(host="tr1", tasks=2, settled=2),))
    assert show(good, judge(good), as_json=True, line=lines.append) == 0
    told = json.loads(lines[0])
    assert told["ok"]
    assert told["deferred"] == [{"host": "tr1", "tasks": 2}]
    assert told["processes"][0]["age"] == 3.0
    assert told["processes"][0]["brokers"][0]["addresses"][0]["state"] == "listening"
    bad = scene(report(AWAY))
    assert show(bad, judge(bad), as_json=False, line=lines.append) == 1
    assert any(line.startswith("wrong   broker broker") for line in lines)
