"""Fields of a ``stomp`` connection."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from airflow.models.connection import Connection

from airflow_provider_panda.broker.endpoint import BrokerEndpoint, BrokerTLS
from airflow_provider_panda.exceptions import ConfigurationError
from airflow_provider_panda.hooks.stomp import StompHook, parse


def fields(**changed: Any) -> dict[str, Any]:
    return {"host": "mq.example.org", "port": None, "login": None, "password": None, "extra": {}} | changed


@pytest.mark.parametrize(
    ("given", "addresses"),
    [
        ({"host": "mq"}, (("mq", 61613),)),
        ({"host": "mq", "port": 1234}, (("mq", 1234),)),
        ({"host": "mq", "extra": {"tls": True}}, (("mq", 61612),)),
        ({"host": "a:1, b:2 ,c,", "port": 3}, (("a", 1), ("b", 2), ("c", 3))),
        ({"host": "a:1,a:1"}, (("a", 1),)),
        ({"host": "[::1]:5,10.0.0.1"}, (("::1", 5), ("10.0.0.1", 61613))),
    ],
)
def test_addresses(given: dict[str, Any], addresses: tuple[tuple[str, int], ...]) -> None:
    assert parse("c", **fields(**given)).addresses == addresses


def test_every_field() -> None:
    extra = {
        "tls": "true",
        "ca_file": "/ca.pem",
        "cert_file": "/cert.pem",
        "key_file": "/key.pem",
        "result_destination": "/topic/r",
        "status_destination": "/topic/panda_idds",
        "heartbeat": "2.5",
        "publisher_login": "worker",
        "publisher_password": "pw2",
    }
    assert parse("c", **fields(login="airflow", password="pw1", extra=extra)) == BrokerEndpoint(
        addresses=(("mq.example.org", 61612),),
        login="airflow",
        passcode="pw1",
        tls=BrokerTLS(ca_file="/ca.pem", cert_file="/cert.pem", key_file="/key.pem"),
        result_destination="/topic/r",
        status_destination="/topic/panda_idds",
        heartbeat=2.5,
        publisher_login="worker",
        publisher_passcode="pw2",
    )


def test_an_empty_form_gives_the_defaults() -> None:
    empty = dict.fromkeys(
        ("tls", "ca_file", "result_destination", "status_destination", "heartbeat", "publisher_login"), None
    ) | {"cert_file": "", "publisher_password": " "}
    assert parse("c", **fields(login="", password="", extra=empty)) == BrokerEndpoint(
        addresses=(("mq.example.org", 61613),)
    )


@pytest.mark.parametrize(
    ("given", "field", "says"),
    [
        ({"host": None}, "host", "host:port"),
        ({"host": " , "}, "host", "host:port"),
        ({"host": "a:b"}, "host", "'a:b' is no host:port"),
        ({"host": "a:70000"}, "host", "host:port"),
        ({"host": "tcp://a:1"}, "host", "host:port"),
        ({"password": "pw"}, "login", "password"),
        ({"extra": {"publisher_login": "w"}}, "publisher_login", "both"),
        ({"extra": {"publisher_password": "w"}}, "publisher_login", "both"),
        ({"extra": {"ca_file": "/ca"}}, "ca_file", "Turn tls on"),
        ({"extra": {"tls": True, "key_file": "/k"}}, "cert_file", "client certificate"),
        ({"extra": {"tls": "perhaps"}}, "tls", "true or false"),
        ({"extra": {"heartbeat": 0}}, "heartbeat", "seconds"),
        ({"extra": {"heartbeat": "often"}}, "heartbeat", "seconds"),
        ({"extra": {"heartbeat": True}}, "heartbeat", "seconds"),
        ({"extra": {"heartbeat": "nan"}}, "heartbeat", "seconds"),
        ({"extra": {"result_destination": "/queue/r"}}, "result_destination", "/topic/"),
        ({"extra": {"status_destination": "panda_idds"}}, "status_destination", "/topic/"),
        ({"extra": {"result_destination": "/topic/a b"}}, "result_destination", "/topic/"),
        ({"extra": {"result_destination": 5}}, "result_destination", "text"),
    ],
)
def test_wrong_fields_say_which_and_what_to_do(given: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=f"connection broker, field {field}:") as caught:
        parse("broker", **fields(**given))
    assert says in str(caught.value)


def test_credentials_in_the_host_field_are_not_repeated() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse("broker", **fields(host="stomp://user:hunter2@mq:1"))
    assert "hunter2" not in str(caught.value)


def test_secrets_are_not_in_the_repr() -> None:
    endpoint = parse(
        "c",
        **fields(login="u", password="secret1", extra={"publisher_login": "w", "publisher_password": "secret2"}),
    )
    assert "secret" not in repr(endpoint)


async def test_from_an_airflow_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    masked: list[object] = []

    async def amask_secret(secret: object, name: str | None = None) -> None:
        masked.append(secret)

    monkeypatch.setattr("airflow.providers.common.compat.sdk.mask_secret", masked.append)
    monkeypatch.setattr("airflow.sdk.log.amask_secret", amask_secret)
    connection = Connection(
        conn_id="mq",
        conn_type="stomp",
        host="a:1,b",
        port=7,
        login="u",
        password="pw1",
        extra='{"publisher_login": "w", "publisher_password": "pw2"}',
    )
    monkeypatch.setenv("AIRFLOW_CONN_MQ", connection.as_json())
    expected = BrokerEndpoint(
        addresses=(("a", 1), ("b", 7)), login="u", passcode="pw1", publisher_login="w", publisher_passcode="pw2"
    )
    assert StompHook("mq").get_conn() == expected
    assert {"pw1", "pw2"} <= {secret for secret in masked if isinstance(secret, str)}
    masked.clear()
    assert await StompHook.aget("mq") == expected
    assert {"pw1", "pw2"} <= {secret for secret in masked if isinstance(secret, str)}


def test_importing_the_hook_does_not_import_stomp() -> None:
    code = "import sys, airflow_provider_panda.hooks.stomp; sys.exit('stomp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
