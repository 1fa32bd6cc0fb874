"""The PanDA connection: every field, every mistake, the Test button, and what importing it costs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_panda.exceptions import ConfigurationError
from airflow_provider_panda.grid.endpoint import AuthKind
from airflow_provider_panda.grid.parameters import TRANSFORM_URL
from airflow_provider_panda.hooks import lookup
from airflow_provider_panda.hooks.panda import EXTRAS, PandaConnection, PandaHook, concerns, parse
from tests.stack.scripted_panda import ScriptedPanda, body, envelope, scripted_panda, status

HOST = "https://panda.example:443"


def made(host: str | None = HOST, **given: Any) -> PandaConnection:
    plain = {name: given.pop(name) for name in ("schema", "port", "password") if name in given}
    return parse("c", host=host, extra=given, **plain)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({"host": HOST}, HOST),
        ({"host": f"{HOST}/server/panda/"}, HOST),
        ({"host": "panda.example"}, "https://panda.example"),
        ({"host": "panda.example", "port": 25443}, "https://panda.example:25443"),
        ({"host": "127.0.0.1", "schema": "http", "port": 8080}, "http://127.0.0.1:8080"),
        ({"host": "http://127.0.0.1", "port": 8080}, "http://127.0.0.1:8080"),
        ({"host": HOST, "port": 443}, HOST),
        ({"host": "[::1]", "schema": "http", "port": 80}, "http://[::1]:80"),
    ],
)
def test_server_url(given: dict[str, Any], url: str) -> None:
    assert made(**given).endpoint.url == url


def test_all_fields() -> None:
    connection = made(
        password=" tok ", auth="token", vo="wlcg.production", cache_url="https://cache:25443/", queue="Q", cloud="US",
        working_group="wg", transform_url="https://t/x", service="panda", idds_host="https://idds:443",
        broker_conn_id="b", signing="archive", instance_secret="s" * 32, monitor_url="https://mon/",
        result_store="https://store/x", verify_host="false", ca_path="/ca", timeout="12.5",
    )  # fmt: skip
    endpoint = connection.endpoint
    assert (endpoint.auth, endpoint.token, endpoint.vo) == (AuthKind.TOKEN, "tok", "wlcg.production")
    assert (endpoint.cache_url, endpoint.verify_host, endpoint.ca_path) == ("https://cache:25443", False, "/ca")
    assert endpoint.timeout == 12.5
    assert (connection.queue, connection.cloud, connection.working_group) == ("Q", "US", "wg")
    assert connection.defaults.transform_url == "https://t/x"
    assert (connection.broker_conn_id, connection.signing) == ("b", "archive")
    assert connection.monitor_url == "https://mon"
    assert connection.result_store == "https://store/x"
    assert "tok" not in repr(connection).replace("token", "")
    assert "ssss" not in repr(connection)


def test_defaults_and_empty_form_fields() -> None:
    for extra in ({}, dict.fromkeys(EXTRAS), dict.fromkeys(EXTRAS, "")):
        connection = made(**extra)
        assert connection.service == "panda"
        assert connection.signing == "secret"
        assert connection.transform_url == TRANSFORM_URL
        assert connection.endpoint.auth is AuthKind.NONE
        assert connection.endpoint.verify_host
        assert connection.queue is None
    assert made(service="idds").signing == "archive"


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"password": "t", "vo": "v"}, AuthKind.TOKEN),
        ({"token_file": "/t", "vo": "v"}, AuthKind.TOKEN_FILE),
        ({"proxy_file": "/p"}, AuthKind.X509),
        ({"password": "t", "auth": "none"}, AuthKind.NONE),
        ({"refresh_token": "r", "vo": "v"}, AuthKind.REFRESH),
        ({"refresh_token": "r", "password": "old id token", "vo": "v"}, AuthKind.REFRESH),
        ({"auth": "refresh", "token_file": "/t", "vo": "v"}, AuthKind.REFRESH),
    ],
)
def test_auth_is_told_from_what_is_given(given: dict[str, Any], kind: AuthKind) -> None:
    endpoint = made(**given).endpoint
    assert endpoint.auth is kind
    assert (endpoint.token is not None) is (kind is AuthKind.TOKEN)


def test_a_refresh_token_and_its_issuer() -> None:
    endpoint = made(refresh_token=" sesame ", vo="wlcg:production").endpoint
    assert (endpoint.refresh_token, endpoint.token, endpoint.token_file) == ("sesame", None, None)
    assert endpoint.auth_config_url == f"{HOST}/auth/wlcg.production_auth_config.json"
    assert "sesame" not in repr(endpoint)
    other = made(refresh_token="r", vo="v", auth_config_url="https://iam.example/page.json").endpoint
    assert other.auth_config_url == "https://iam.example/page.json"
    assert made(token_file="/t", vo="v", refresh_token="r", auth="token_file").endpoint.refresh_token is None


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    masked: list[str] = []
    monkeypatch.setattr("airflow_provider_panda.hooks.panda.mask", masked.extend)
    connect(monkeypatch, host=HOST, extra={"vo": "v", "refresh_token": "sesame", "instance_secret": "open"}).get_conn()
    connect(monkeypatch, host=HOST, password="id-token", extra={"vo": "v"}).get_conn()
    assert masked == ["sesame", "open", "id-token"]


def test_nothing_is_signed_by_an_empty_secret() -> None:
    assert made(instance_secret="s" * 32).signing_secret == "s" * 32
    for fields in ({}, {"instance_secret": ""}):
        with pytest.raises(ConfigurationError, match=r"instance_secret.*airflow panda setup"):
            _ = made(**fields).signing_secret


@pytest.mark.parametrize(
    ("given", "subject"),
    [
        ({"host": None}, "host"),
        ({"host": "  "}, "host"),
        ({"host": "ftp://x"}, "host"),
        ({"host": "https://"}, "host"),
        ({"host": "https://panda.example:99999"}, "host"),
        ({"host": "https://me:sesame@panda.example"}, "host"),
        ({"host": "panda.example", "schema": "gopher"}, "schema"),
        ({"port": 8443}, "port"),
        ({"auth": "oidc"}, "auth"),
        ({"auth": "token", "vo": "v"}, "password"),
        ({"auth": "token_file", "vo": "v"}, "token_file"),
        ({"auth": "x509"}, "proxy_file"),
        ({"auth": "refresh", "vo": "v"}, "refresh_token"),
        ({"refresh_token": "r"}, "vo"),
        ({"auth_config_url": "iam"}, "auth_config_url"),
        ({"auth": "x509", "proxy_file": "/p", "host": "http://127.0.0.1"}, "host"),
        ({"password": "t"}, "vo"),
        ({"service": "both"}, "service"),
        ({"signing": "none"}, "signing"),
        ({"service": "idds", "signing": "secret"}, "signing"),
        ({"cache_url": "cache"}, "cache_url"),
        ({"monitor_url": "mon"}, "monitor_url"),
        ({"idds_host": "idds"}, "idds_host"),
        ({"transform_url": "bash-c-enc"}, "transform_url"),
        ({"verify_host": "maybe"}, "verify_host"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": 601}, "timeout"),
        ({"timeout": "nan"}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"queue": 7}, "queue"),
        ({"result_store": "s3://bucket"}, "result_store"),
        ({"result_store": "https://me:sesame@store"}, "result_store"),
        ({"result_store": "file://elsewhere/x"}, "result_store"),
    ],
)
def test_a_wrong_field_is_named_with_a_remedy(given: dict[str, Any], subject: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        made(**given)
    assert caught.value.subject == f"connection c, field {subject}"
    assert caught.value.remedy
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"colour": "red"}, "colour"),
        ({"host": "http://panda.example", "password": "t", "vo": "v"}, "unencrypted"),
        ({"password": "t", "vo": "v", "cache_url": "http://cache.example"}, "unencrypted"),
        ({"verify_host": False}, "pretend"),
        ({"refresh_token": "r", "vo": "v", "auth_config_url": "http://iam.example/x.json"}, "unencrypted"),
        ({"password": "t", "vo": "v", "service": "idds", "idds_host": "http://idds.example"}, "unencrypted"),
        ({"host": "http://127.0.0.1:80", "password": "t", "vo": "v"}, None),
        ({"host": "http://localhost:80", "password": "t", "vo": "v"}, None),
        ({"password": "t", "vo": "v"}, None),
    ],
)
def test_concerns(given: dict[str, Any], says: str | None) -> None:
    extra = {name: value for name, value in given.items() if name not in ("host", "password")}
    told = concerns(made(**given), extra)
    assert (says is None and told == []) or (says is not None and len(told) == 1 and says in told[0])


@pytest.fixture
def panda() -> Iterator[ScriptedPanda]:
    with scripted_panda() as server:
        server.on("system/is_alive", envelope())
        server.on("task/get_tasks_detailed_info_since", envelope([]))
        yield server


def connect(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> PandaHook:
    monkeypatch.setenv("AIRFLOW_CONN_PANDA_TEST", json.dumps({"conn_type": "panda", **fields}))
    return PandaHook("panda_test")


def test_from_an_airflow_connection(panda: ScriptedPanda, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = connect(monkeypatch, host=panda.url, password="sesame", extra={"vo": "wlcg", "queue": "Q", "odd": 1})
    connection = hook.get_conn()
    assert connection.conn_id == "panda_test"
    assert connection.endpoint.token == "sesame"
    assert hook.grid().defaults.queue == "Q"
    assert hook.test_connection()[0] is True
    assert panda.seen[-1].headers["Authorization"] == "Bearer sesame"


def test_a_hook_looks_its_connection_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look-up is a request to Airflow's API, and both grids of iDDS ask for the connection again."""
    looks: list[str] = []
    row = SimpleNamespace(conn_id="c", host=HOST, schema=None, port=None, password=None, extra='{"auth": "none"}')
    monkeypatch.setattr("airflow_provider_panda.hooks.panda.look_up", lambda conn_id: looks.append(conn_id) or row)
    hook = PandaHook("c")
    assert hook.get_conn() is hook.get_conn()
    assert hook.grid().endpoint == hook.get_conn().endpoint
    assert looks == ["c"]


async def test_from_a_trigger(panda: ScriptedPanda, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, host=panda.url, extra={"queue": "Q"})
    connection = await PandaHook.aget("panda_test")
    assert (connection.endpoint.url, connection.queue) == (panda.url, "Q")


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (status(403, "Token authentication failed. Invalid token"), "Renew the token"),
        (status(500, "oops"), "HTTP 500"),
        (body("<html><title>Welcome</title>"), "HTML page ('Welcome')"),
    ],
)
def test_the_test_button_says_what_is_wrong(
    panda: ScriptedPanda, monkeypatch: pytest.MonkeyPatch, script: Any, says: str
) -> None:
    panda.on("system/is_alive", script)
    good, text = connect(monkeypatch, host=panda.url).test_connection()
    assert not good
    assert says in text


def test_the_test_button_without_server_or_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    good, text = connect(monkeypatch, host="http://127.0.0.1:1").test_connection()
    assert (good, "connection refused" in text) == (False, True)
    good, text = connect(monkeypatch, extra={"vo": "x"}).test_connection()
    assert (good, "field host" in text) == (False, True)


@pytest.mark.parametrize("text", ["{", "[]", '"x"'])
def test_broken_extra_is_not_taken_for_empty(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    row = SimpleNamespace(conn_id="c", host=HOST, schema=None, port=None, password=None, extra=text)
    monkeypatch.setattr(lookup.BaseHook, "get_connection", lambda *_: row)
    with pytest.raises(ConfigurationError, match="no JSON object"):
        PandaHook("c").get_conn()


async def test_a_connection_that_is_not_there_says_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match="nosuch: Airflow has none of that id"):
        PandaHook("nosuch").get_conn()
    with pytest.raises(ConfigurationError, match="nosuch: Airflow has none of that id"):
        await PandaHook.aget("nosuch")


def test_importing_the_hook_loads_no_client() -> None:
    code = (
        "import sys, airflow_provider_panda.hooks.panda\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('pandaclient', 'pandaserver', 'idds')])\n"
        "import airflow_provider_panda.grid.panda, airflow_provider_panda.grid.watch\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('pandaclient', 'pandaserver', 'idds')])\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert out.stdout.split("\n")[-3:-1] == ["[]", "[]"]


def test_our_modules_do_not_import_httpx_or_airflow_by_themselves() -> None:
    code = (
        "import sys, airflow_provider_panda.grid.panda, airflow_provider_panda.grid.watch\n"
        "print([m for m in ('httpx', 'pandaclient', 'airflow') if m in sys.modules])\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert out.stdout.strip() == "[]"
