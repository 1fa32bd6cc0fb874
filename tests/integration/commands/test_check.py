"""``airflow panda check`` and ``setup`` against servers with one thing wrong each, and against real ones."""

from __future__ import annotations

import json
import socket
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from datetime import timedelta
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from airflow.cli.cli_config import ActionCommand

from airflow_provider_panda.cli import get_panda_commands
from airflow_provider_panda.commands.check import check, further, preflight
from airflow_provider_panda.commands.setup import setup
from airflow_provider_panda.commands.steps import Finding, Verdict, take
from airflow_provider_panda.commands.subject import Subject
from airflow_provider_panda.local.auth import keys_of
from airflow_provider_panda.local.issuer import Person, id_token, refresh_token, user_of
from demo.grid import Grid
from tests.stack.activemq import ActiveMQ
from tests.stack.certificates import Authority
from tests.stack.scripted_issuer import EXPIRED, jwt, lived
from tests.stack.scripted_panda import Script, ScriptedPanda, body, envelope, scripted_panda, status

SECRET = "secret of the check tests"
LISTING = "task/get_tasks_detailed_info_since"
GOOD = (Verdict.OK, Verdict.WARN, Verdict.SKIPPED)
PREFLIGHT = ("connection", "network", "TLS", "PanDA", "clock", "credentials", "VO", "role", "queue")


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back what a command changes, and keep caches in the test's folder."""
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "client")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Subject]:
    """Make a connection in the environment."""

    def make(host: str, *, password: str | None = None, **extra: Any) -> Subject:
        fields = {"vo": "wlcg", "instance_secret": SECRET, **extra}
        monkeypatch.setenv(
            "AIRFLOW_CONN_CHECKED",
            json.dumps({"conn_type": "panda", "host": host, "password": password, "extra": fields}),
        )
        return Subject("checked")

    return make


def found(subject: Subject) -> dict[str, Finding]:
    return {finding.step: finding for finding in take([*preflight(subject), *further(subject)])}


def wrong_ones(findings: dict[str, Finding]) -> list[str]:
    return [name for name, finding in findings.items() if finding.verdict is Verdict.WRONG]


@pytest.fixture
def panda() -> Iterator[ScriptedPanda]:
    with scripted_panda() as server:
        good(server)
        yield server


def good(server: ScriptedPanda) -> None:
    server.on("system/is_alive", envelope())
    server.on(LISTING, envelope([]))
    server.on("metaconfig/get_site_specs", envelope({"BNL": {"status": "online"}}))
    server.on("creds/get_user_secrets", envelope(None, message="No secrets found"))


def refuses(vo: str, text: str) -> Script:
    """Refuse the token of an Origin, and take all others."""

    def script(handler: BaseHTTPRequestHandler, seen: Any) -> None:
        (status(403, text) if seen.headers.get("Origin") == vo else envelope([]))(handler, seen)

    return script


def dated(off: float) -> Script:
    """Answer as a server whose clock is off by so many seconds."""

    def script(handler: BaseHTTPRequestHandler, seen: Any) -> None:
        handler.date_time_string = lambda timestamp=None: formatdate(time.time() + off, usegmt=True)  # type: ignore[method-assign]
        envelope()(handler, seen)

    return script


@pytest.mark.parametrize(
    ("step", "says", "arrange", "fields"),
    [
        ("PanDA", "HTML page", lambda p: p.on("system/is_alive", body("<html><title>x</title></html>")), {}),
        ("PanDA", "HTTP 500", lambda p: p.on("system/is_alive", status(500, "boom")), {}),
        ("clock", "s behind the server's", lambda p: p.on("system/is_alive", dated(600)), {}),
        ("clock", "ahead of", lambda p: p.on("system/is_alive", dated(-600)), {}),
        ("credentials", "expired at", None, {"password": lived(-10)}),
        ("credentials", "is empty", None, {"auth": "token_file", "token_file": "/dev/null"}),
        ("credentials", "cannot be read", None, {"auth": "token_file", "token_file": "/nowhere/token"}),
        ("VO", "Signature has expired", lambda p: p.on(LISTING, status(403, EXPIRED)), {}),
        (
            "VO",
            "Unknown vo : nosuchvo. Renew",
            lambda p: p.on(LISTING, refuses("nosuchvo", "ERROR : Token authentication failed. Unknown vo : nosuchvo")),
            {"vo": "nosuchvo"},
        ),
        (
            "VO",
            "groups are: atlas, atlas/production",
            lambda p: p.on(LISTING, refuses("wlcg", "Token authentication failed. Not a member of the wlcg group")),
            {},
        ),
        (
            "role",
            "Not a member of the wlcg/production group",
            lambda p: p.on(LISTING, refuses("wlcg.production", "Not a member of the wlcg/production group")),
            {"vo": "wlcg.production"},
        ),
        ("queue", "did you mean BNL?", None, {"queue": "BLN"}),
        (
            "tasks",
            "HTTP 500",
            lambda p: p.on(LISTING, envelope([]), status(500, "boom")),
            {},
        ),
        ("download", "other bytes", lambda p: p.scripts.update(_cache_of(b"something else")), {}),
        ("instance", "airflow panda setup", None, {"instance_secret": ""}),
        ("connection", "field vo", None, {"vo": ""}),
    ],
)
def test_one_thing_wrong(
    panda: ScriptedPanda,
    connect: Callable[..., Subject],
    step: str,
    says: str,
    arrange: Callable[[ScriptedPanda], None] | None,
    fields: dict[str, Any],
) -> None:
    if arrange is not None:
        arrange(panda)
    token = jwt(exp=time.time() + 9000, groups=["atlas", "/atlas/production"])
    subject = connect(panda.url, **{"password": token, "signing": "archive", **fields})
    findings = found(subject)
    assert wrong_ones(findings)[0] == step, "\n".join(finding.line for finding in findings.values())
    assert says in findings[step].text
    assert token not in str(findings)
    after = list(findings)[list(findings).index(step) + 1 :]
    for name in after:  # what builds on it is skipped, the rest goes on
        if findings[name].verdict is Verdict.SKIPPED and "because" in findings[name].text:
            assert f"'{step}'" in findings[name].text


def _cache_of(content: bytes) -> dict[str, list[Script]]:
    from airflow_provider_panda import configuration
    from airflow_provider_panda.commands.stores import trial_file

    name = trial_file(configuration.instance(SECRET, conn_id="checked")).name
    return {f"/cache/{name}": [body(content)]}


def test_all_is_well_with_a_server_that_keeps_nothing_and_nothing_is_changed(
    panda: ScriptedPanda, connect: Callable[..., Subject]
) -> None:
    findings = found(connect(panda.url, password=lived(9000), signing="archive", queue="BNL"))
    assert wrong_ones(findings) == [], "\n".join(finding.line for finding in findings.values())
    assert findings["queue"].text == "PanDA has BNL (online)"
    assert "not in the cache" in findings["download"].text
    assert {seen.method for seen in panda.seen} == {"GET"}


def test_a_server_that_lists_no_queues_is_said_to_be_one(panda: ScriptedPanda, connect: Callable[..., Subject]) -> None:
    panda.on("metaconfig/get_site_specs", status(403, "ERROR : method get_site_specs is forbidden"))
    finding = found(connect(panda.url, password=lived(9000), signing="archive", queue="BNL"))["queue"]
    assert finding.verdict is Verdict.SKIPPED
    assert "not checked" in finding.text


@pytest.mark.parametrize(
    ("host", "says"),
    [("http://nosuchhost.invalid:80", "cannot be resolved"), ("http://127.0.0.1:{closed}", "does not answer")],
)
def test_no_way_to_the_server(connect: Callable[..., Subject], host: str, says: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        findings = found(connect(host.format(closed=closed.getsockname()[1]), password=lived(9000)))
    assert wrong_ones(findings) == ["network"]
    assert says in findings["network"].text
    assert findings["VO"].text == "because 'network' is wrong"
    assert findings["credentials"].verdict is Verdict.OK
    assert findings["user secret"].text == "because 'network' is wrong"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.mark.parametrize(
    ("certificate", "trusted", "verdict", "says"),
    [
        ({"host": "127.0.0.1"}, True, Verdict.OK, "good for 299 more days"),
        ({"host": "127.0.0.1", "ends": timedelta(days=3, hours=1)}, True, Verdict.WARN, "good for 3 more days"),
        ({"host": "127.0.0.1"}, False, Verdict.WRONG, "not trusted"),
        ({"host": "127.0.0.1", "ends": timedelta(days=-1)}, True, Verdict.WRONG, "has expired"),
        ({"host": "panda.example"}, True, Verdict.WRONG, "IP address mismatch"),
    ],
)
def test_certificates_of_servers(
    authority: Authority,
    connect: Callable[..., Subject],
    certificate: dict[str, Any],
    trusted: bool,
    verdict: Verdict,
    says: str,
) -> None:
    with scripted_panda(authority.server(authority.issue("server", **certificate))) as panda:
        good(panda)
        ca = {"ca_path": str(authority.ca_file)} if trusted else {}
        findings = found(connect(panda.url, password=lived(9000), signing="archive", **ca))
    assert findings["TLS"].verdict is verdict
    assert says in findings["TLS"].text
    assert wrong_ones(findings) == ([] if verdict in GOOD else ["TLS"])


def test_plain_http_where_tls_is_expected(panda: ScriptedPanda, connect: Callable[..., Subject]) -> None:
    findings = found(connect(panda.url.replace("http:", "https:"), password=lived(9000)))
    assert wrong_ones(findings) == ["TLS"]
    assert "No TLS" in findings["TLS"].text


@pytest.mark.parametrize(
    ("ends", "verdict", "says"),
    [
        (timedelta(days=9, minutes=1), Verdict.OK, "of CN=Grid User: good for 9 days"),
        (timedelta(minutes=20, seconds=30), Verdict.WARN, "good for 20 min"),
        (timedelta(minutes=-5), Verdict.WRONG, "expired at"),
    ],
)
def test_proxies(
    authority: Authority, connect: Callable[..., Subject], ends: timedelta, verdict: Verdict, says: str
) -> None:
    with scripted_panda(authority.server(authority.issue("server", host="127.0.0.1"), clients=True)) as panda:
        good(panda)
        proxy = authority.issue("Grid User", ends=ends)
        subject = connect(
            panda.url, auth="x509", proxy_file=str(proxy), ca_path=str(authority.ca_file), signing="archive"
        )
        findings = found(subject)
        assert verdict is Verdict.WRONG or {seen.peer for seen in panda.calls(LISTING)} == {"Grid User"}
    assert findings["credentials"].verdict is verdict
    assert says in findings["credentials"].text
    assert findings["VO"].verdict is (Verdict.SKIPPED if verdict is Verdict.WRONG else Verdict.OK)


# --- real services ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    grid = Grid(tmp_path_factory.mktemp("grid"), ["--slots", "0"])
    yield grid
    grid.stop()


def brokered(monkeypatch: pytest.MonkeyPatch, broker: ActiveMQ, **changed: Any) -> None:
    extra = {"publisher_login": broker.publisher.name, "publisher_password": broker.publisher.passcode}
    fields = {
        "conn_type": "stomp",
        "host": f"{broker.host}:{broker.port}",
        "login": broker.subscriber.name,
        "password": broker.subscriber.passcode,
        "extra": extra,
        **changed,
    }
    monkeypatch.setenv("AIRFLOW_CONN_CHECKED_BROKER", json.dumps(fields))


def run(command: Callable[[Namespace], None], capsys: pytest.CaptureFixture[str], **given: Any) -> tuple[int, str]:
    arguments = {"conn_id": "checked", "output": "plain", "new_secret": False, **given}
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        command(Namespace(**arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code, capsys.readouterr().out


def test_setup_and_check_of_a_whole_stack(
    grid: Grid,
    activemq: ActiveMQ,
    connect: Callable[..., Subject],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    brokered(monkeypatch, activemq)
    connect(grid.url, password=grid.token(), vo="wlcg.production", broker_conn_id="checked_broker")
    code, told = run(check, capsys)
    assert code == 1
    assert "wrong   user secret: PanDA has no AIRFLOW_PANDA_" in told
    assert "skipped download: " in told
    code, told = run(setup, capsys)
    assert code == 0, told
    for step in (
        *PREFLIGHT[:1],
        "network",
        "PanDA",
        "clock",
        "credentials",
        "VO",
        "role",
        "user secret",
        "upload",
        "download",
    ):
        assert f"ok      {step}: " in told
    assert "made a new one" not in told
    code, told = run(check, capsys)
    assert code == 0, told
    for step in ("user secret", "download", "broker login", "broker subscribe", "broker publish", "broker delivery"):
        assert f"ok      {step}: " in told
    code, told = run(check, capsys, output="json")
    parsed = json.loads(told)
    assert (code, parsed["ok"]) == (0, True)
    for secret in (grid.token(), SECRET, activemq.subscriber.passcode, activemq.publisher.passcode):
        assert secret not in told
    brokered(monkeypatch, activemq, extra={"publisher_login": "other", "publisher_password": "x"})
    code, told = run(check, capsys)
    assert code == 1
    assert "wrong   user secret: " in told
    assert "differs from the connections here" in told


@pytest.mark.parametrize(
    ("changed", "step", "says"),
    [
        ({"password": "mistyped"}, "broker login", "password is invalid"),
        ({"host": "127.0.0.1:1"}, "broker login", "refused"),
        ({"host": "no..such..name:1"}, "broker login", "does not resolve"),
        ({"extra": {"publisher_login": "w", "publisher_password": "x"}}, "broker publish", "as publisher"),
        ("publisher", "broker subscribe", "subscribing to"),
    ],
)
def test_brokers_with_one_thing_wrong(
    panda: ScriptedPanda,
    activemq: ActiveMQ,
    connect: Callable[..., Subject],
    monkeypatch: pytest.MonkeyPatch,
    changed: Any,
    step: str,
    says: str,
) -> None:
    if changed == "publisher":
        changed = {"login": activemq.publisher.name, "password": activemq.publisher.passcode}
    brokered(monkeypatch, activemq, **changed)
    findings = found(connect(panda.url, password=lived(9000), signing="archive", broker_conn_id="checked_broker"))
    assert wrong_ones(findings) == [step]
    assert says in findings[step].text
    after = [name for name in findings if name.startswith("broker")]
    for name in after[after.index(step) + 1 :]:
        assert findings[name].text == f"because '{step}' is wrong"


def test_a_broker_login_that_workers_share_is_a_warning(
    panda: ScriptedPanda, activemq: ActiveMQ, connect: Callable[..., Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    brokered(monkeypatch, activemq, extra={})
    findings = found(connect(panda.url, password=lived(9000), signing="archive", broker_conn_id="checked_broker"))
    assert findings["broker publish"].verdict is Verdict.WARN
    assert findings["broker delivery"].verdict is Verdict.OK


def test_rights_in_the_embedded_grid(grid: Grid, connect: Callable[..., Subject]) -> None:
    keys, person = keys_of(grid.folder / "data"), user_of("Grid User", ("wlcg",))
    member = Person(name="Plain Member", nickname="plain", groups=("wlcg",))
    expired, plain = id_token(keys, person, lifetime=-60), id_token(keys, member, lifetime=900)
    assert wrong_ones(found(connect(grid.url, password=expired)))[0] == "credentials"
    no_role = found(connect(grid.url, password=plain, vo="wlcg.production"))
    assert wrong_ones(no_role) == ["role"]
    assert "The token's groups are: wlcg. Ask" in no_role["role"].text
    no_vo = found(connect(grid.url, password=plain, vo="panda_dev"))
    assert wrong_ones(no_vo) == ["VO"]
    unknown = found(connect(grid.url, password=plain, vo="nosuchvo"))
    assert wrong_ones(unknown) == ["VO"]
    assert "Unknown vo" in unknown["VO"].text


def test_a_refresh_token_alone_passes(grid: Grid, connect: Callable[..., Subject]) -> None:
    token = refresh_token(keys_of(grid.folder / "data"), user_of("Grid User", ("wlcg",)))
    findings = found(connect(grid.url, refresh_token=token))
    assert [name for name in wrong_ones(findings) if name in PREFLIGHT] == []
    assert "connection field refresh_token of Grid User" in findings["credentials"].text
    assert "a refresh token renews it" in findings["credentials"].text
    assert token not in str(findings)


@pytest.mark.parametrize("direct", [False, True])
def test_idds_that_answers(panda: ScriptedPanda, connect: Callable[..., Subject], direct: bool) -> None:
    panda.on("/server/panda/relay_idds_command", body('[true, {"Status": "OK"}]'))
    panda.on("/idds/ping", body('{"Status": "OK"}', content_type="application/json"))
    way = {"idds_host": f"{panda.url}/idds"} if direct else {}
    findings = found(connect(panda.url, password=lived(9000), service="idds", **way))
    assert wrong_ones(findings) == []
    assert findings["iDDS"].verdict is Verdict.OK
    assert ("behind PanDA" in findings["iDDS"].text) is not direct


def test_idds_through_a_relay_that_leads_nowhere(grid: Grid, connect: Callable[..., Subject]) -> None:
    findings = found(connect(grid.url, password=grid.token(), service="idds"))
    assert wrong_ones(findings) == ["iDDS"]


def test_a_command_line_that_is_not_understood() -> None:
    (group,) = get_panda_commands()
    command = next(one for one in group.subcommands if one.name == "check")
    assert isinstance(command, ActionCommand)
    parser = ArgumentParser()
    for argument in command.args:
        argument.add_to_parser(parser)
    assert parser.parse_args(["c", "-o", "json"]).output == "json"
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["c", "-o", "yaml"])
    assert ended.value.code == 2
