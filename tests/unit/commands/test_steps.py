"""What steps say: each decision without a server."""

from __future__ import annotations

import json
from email.utils import formatdate

import pytest

from airflow_provider_panda.broker.selftest import AddressCheck, Stage
from airflow_provider_panda.commands import reach, rights, services, stores
from airflow_provider_panda.commands.steps import Finding, Step, Told, Verdict, ok, report, skipped, take, warn
from airflow_provider_panda.exceptions import ConfigurationError, GridAuthError

NOW = 1_800_000_000.0


def raising() -> Told:
    raise ConfigurationError("field x", "it is wrong", "Mend it")


def test_steps_that_build_on_a_failed_one_are_skipped_with_the_reason() -> None:
    steps = [
        Step(name="a", act=lambda: ok("good")),
        Step(name="b", act=raising, needs=("a",)),
        Step(name="c", act=lambda: pytest.fail("taken"), needs=("b",)),
        Step(name="d", act=lambda: pytest.fail("taken"), needs=("a", "c")),
        Step(name="e", act=lambda: skipped("not asked for"), needs=("a",)),
        Step(name="f", act=lambda: warn("hardly meant"), needs=("e",)),
    ]
    assert [finding.line for finding in take(steps)] == [
        "ok      a: good",
        "wrong   b: field x: it is wrong. Mend it",
        "skipped c: because 'b' is wrong",
        "skipped d: because 'b' is wrong",
        "skipped e: not asked for",
        "warn    f: hardly meant",
    ]


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ([Verdict.OK, Verdict.WARN, Verdict.SKIPPED], 0),
        ([Verdict.OK, Verdict.WRONG], 1),
        ([], 0),
    ],
)
def test_the_exit_code_tells(verdicts: list[Verdict], code: int) -> None:
    findings = [Finding(step=f"s{n}", verdict=verdict, text="two\nlines") for n, verdict in enumerate(verdicts)]
    lines: list[str] = []
    assert report("c", iter(findings), as_json=False, show=lines.append) == code
    assert len(lines) == len(findings)
    assert all("\n" not in line for line in lines)
    texts: list[str] = []
    assert report("c", iter(findings), as_json=True, show=texts.append) == code
    told = json.loads(texts[0])
    assert (len(texts), told["connection"], told["ok"], len(told["steps"])) == (1, "c", code == 0, len(findings))


@pytest.mark.parametrize(
    ("off", "verdict", "says"),
    [
        (0, Verdict.OK, "agree"),
        (20, Verdict.OK, "20 s off"),
        (-20, Verdict.OK, "s off"),
        (40, Verdict.WARN, "behind"),
        (-40, Verdict.WARN, "ahead of"),
        (600, Verdict.WRONG, "600 s behind"),
        (-600, Verdict.WRONG, "ahead of"),
    ],
)
def test_clock(off: float, verdict: Verdict, says: str) -> None:
    told = reach.clock(formatdate(NOW + off, usegmt=True), NOW - 0.2, NOW)
    assert told.verdict is verdict
    assert says in told.text


@pytest.mark.parametrize("date", ["", "yesterday"])
def test_a_server_that_tells_no_time(date: str) -> None:
    assert reach.clock(date, NOW, NOW).verdict is Verdict.SKIPPED


def test_a_slow_answer_is_not_taken_for_a_wrong_clock() -> None:
    assert reach.clock(formatdate(NOW, usegmt=True), NOW - 25, NOW + 25).verdict is Verdict.OK


@pytest.mark.parametrize(
    ("days", "verified", "verdict"), [(100, True, Verdict.OK), (3, True, Verdict.WARN), (100, False, Verdict.WARN)]
)
def test_a_servers_certificate(days: float, verified: bool, verdict: Verdict) -> None:
    told = reach.certificate_told("panda.example", NOW + days * 86400 + 60, verified=verified, now=NOW)
    assert told.verdict is verdict
    assert not verified or f"{days} more days" in told.text


@pytest.mark.parametrize(
    ("left", "renewable", "verdict", "says"),
    [
        (None, False, Verdict.OK, "does not say"),
        (90 * 86400, False, Verdict.OK, "90 days"),
        (7200 + 120, False, Verdict.OK, "2 h 2 min"),
        (600, False, Verdict.WARN, "10 min"),
        (600, True, Verdict.OK, "a refresh token renews it"),
        (30, False, Verdict.WARN, "30 s"),
    ],
)
def test_a_token(left: float | None, renewable: bool, verdict: Verdict, says: str) -> None:
    told = rights.life_told("token", None if left is None else NOW + left, renewable=renewable, now=NOW)
    assert told.verdict is verdict
    assert says in told.text


@pytest.mark.parametrize(
    ("vo", "parts"),
    [("wlcg", ("wlcg", "")), ("wlcg.production", ("wlcg", "production")), ("wlcg:pilot", ("wlcg", "pilot"))],
)
def test_vo_and_role(vo: str, parts: tuple[str, str]) -> None:
    assert rights.split_vo(vo) == parts


@pytest.mark.parametrize(
    ("refusal", "says"),
    [
        ("Not a member of the wlcg/production group", "groups are: wlcg, wlcg/pilot"),
        ("Unknown vo : nosuch", "field vo"),
        ("Signature has expired", "Signature has expired"),
    ],
)
def test_a_refusal_is_explained(refusal: str, says: str) -> None:
    assert says in rights.explained(GridAuthError(refusal), ("wlcg", "wlcg/pilot"))


@pytest.mark.parametrize(
    ("wanted", "listed", "verdict", "says"),
    [
        ("BNL", {"BNL": {"status": "online"}, "SLAC": {}}, Verdict.OK, "(online)"),
        ("BNL", {"BNL": {"status": "brokeroff"}}, Verdict.WARN, "brokeroff"),
        ("BNL", {"BNL": None}, Verdict.OK, "has BNL"),
        ("BNL.*", {"BNL_1": {}, "BNL_2": {}, "SLAC": {}}, Verdict.OK, "2 of PanDA's queues"),
        ("BLN", {"BNL": {}}, Verdict.WRONG, "did you mean BNL?"),
        ("(", {"BNL": {}}, Verdict.WRONG, "no queue"),
        ("BNL", {}, Verdict.SKIPPED, "not checked"),
        ("BNL", None, Verdict.SKIPPED, "not checked"),
    ],
)
def test_a_queue(wanted: str, listed: object, verdict: Verdict, says: str) -> None:
    told = rights.queue_told(wanted, listed)
    assert told.verdict is verdict
    assert says in told.text


GOOD = AddressCheck(address="b:1", seconds=0.005)


@pytest.mark.parametrize(
    ("checks", "stages", "verdict"),
    [
        ([GOOD], (Stage.RESOLVE, Stage.LOGIN), Verdict.OK),
        ([GOOD], (Stage.DELIVER,), Verdict.OK),
        ([AddressCheck(address="b:2", problem="p", failed_at=Stage.LOGIN), GOOD], (Stage.LOGIN,), Verdict.WRONG),
        ([AddressCheck(address="b:2", problem="p", failed_at=Stage.DELIVER)], (Stage.SUBSCRIBE,), Verdict.OK),
        ([AddressCheck(address="b:2", problem="p", failed_at=Stage.PUBLISH)], (Stage.PUBLISHER, Stage.PUBLISH),
         Verdict.WRONG),
    ],
)  # fmt: skip
def test_stages_of_a_broker(checks: list[AddressCheck], stages: tuple[Stage, ...], verdict: Verdict) -> None:
    assert services.stage_told(stages, checks, "text").verdict is verdict


def test_the_trial_file_is_the_same_every_time_and_of_the_instance() -> None:
    one, again, other = stores.trial_file("abcd"), stores.trial_file("abcd"), stores.trial_file("abce")
    assert one == again
    assert one.name != other.name
    assert one.name.startswith("sources.")
    assert "…" in stores.short(one.name)
