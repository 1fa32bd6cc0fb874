"""The Test button of a ``stomp`` connection against a real ActiveMQ."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from airflow.models.connection import Connection

from airflow_provider_panda.hooks.stomp import StompHook
from tests.stack.activemq import ActiveMQ, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@pytest.fixture
def press_test(activemq: ActiveMQ, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[bool, str]]:
    """Press the button with changed fields."""

    def press(**changed: Any) -> tuple[bool, str]:
        extra = changed.pop("extra", {})
        fields: dict[str, Any] = {
            "host": f"{activemq.host}:{activemq.port}",
            "login": activemq.subscriber.name,
            "password": activemq.subscriber.passcode,
        }
        connection = Connection(conn_id="mq", conn_type="stomp", **(fields | changed))
        connection.set_extra(json.dumps(extra))
        monkeypatch.setenv("AIRFLOW_CONN_MQ", connection.as_json())
        return StompHook("mq").test_connection()

    return press


def test_works(press_test: Callable[..., tuple[bool, str]], activemq: ActiveMQ) -> None:
    ok, text = press_test()
    assert ok, text
    assert f"Published to and received from {activemq.host}:{activemq.port}" in text


def test_works_with_a_publish_only_login(press_test: Callable[..., tuple[bool, str]], activemq: ActiveMQ) -> None:
    publisher = {"publisher_login": activemq.publisher.name, "publisher_password": activemq.publisher.passcode}
    ok, text = press_test(extra=publisher)
    assert ok, text


def test_each_failure_says_what_and_where(press_test: Callable[..., tuple[bool, str]], activemq: ActiveMQ) -> None:
    wrong_passcode = press_test(password="mistyped-passcode")
    assert not wrong_passcode[0]
    assert "password is invalid" in wrong_passcode[1]
    assert "as subscriber" in wrong_passcode[1]
    assert "mistyped-passcode" not in wrong_passcode[1]

    may_not_subscribe = press_test(login=activemq.publisher.name, password=activemq.publisher.passcode)
    assert not may_not_subscribe[0]
    assert "subscribing to /topic/airflow.panda.results" in may_not_subscribe[1]

    wrong_publisher = press_test(extra={"publisher_login": "w", "publisher_password": "x"})
    assert not wrong_publisher[0]
    assert "as publisher" in wrong_publisher[1]

    no_such_name = press_test(host="no..such..name:1")
    assert not no_such_name[0]
    assert "does not resolve" in no_such_name[1]

    one_of_two = press_test(host=f"{activemq.host}:{activemq.port},127.0.0.9:{activemq.port}")
    assert not one_of_two[0]
    assert "1 of 2 addresses failed" in one_of_two[1]
    assert "Connection refused" in one_of_two[1]

    bad_field = press_test(extra={"heartbeat": "never"})
    assert not bad_field[0]
    assert "field heartbeat" in bad_field[1]
