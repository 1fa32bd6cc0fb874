"""A publisher that is not our own code, hubs that are closed, and results as a runner makes them."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import stomp

from airflow_provider_panda.broker.endpoint import BrokerEndpoint
from airflow_provider_panda.broker.hub import Hub, get_hub
from airflow_provider_panda.grid.task import task_key
from airflow_provider_panda.payload import envelope
from tests.stack.activemq import ActiveMQ, Login, missing

ROOT: Final = Path(__file__).parents[3]

INSTANCE = "abcd"
SECRET = "instance secret of the tests"
DESTINATION = "/topic/airflow.panda.results"


HEARTBEAT = 3.0
"""Seconds. A machine on which brokers start is now and then as good as silent for two."""


class Grid:
    """Makes and publishes results of tasks, as worker nodes do."""

    def __init__(self) -> None:
        self._connections: list[Any] = []

    def key(self, number: int) -> str:
        return task_key(INSTANCE, f"task instance {number}")

    def signing_key(self, number: int) -> bytes:
        return envelope.derive_key(SECRET, self.key(number))

    def message(
        self, number: int, *, payload: Any = None, key: bytes | None = None, **changed: Any
    ) -> tuple[dict[str, str], str]:
        report: dict[str, Any] = {
            "task_key": self.key(number),
            "job": 0,
            "attempt": 1,
            "status": envelope.RETURNED,
            "encoding": "json",
            "payload": payload,
            "exception": None,
            "start": 1.0,
            "end": 2.0,
            "host": "wn1",
            "site": "LOCAL",
            "panda_id": 5,
            "python": "3.11.7",
        }
        report |= changed
        return envelope.message(report, envelope.sign(report, key or self.signing_key(number)), name="f")

    def connect(self, broker: ActiveMQ, login: Login | None = None, *, client_id: str | None = None) -> Any:
        login = login or broker.publisher
        connection = stomp.Connection12([(broker.host, broker.port)])
        headers = {"client-id": client_id} if client_id else None
        connection.connect(login.name, login.passcode, wait=True, headers=headers)
        self._connections.append(connection)
        return connection

    def publish(self, connection: Any, number: int, payload: Any = None) -> None:
        headers, body = self.message(number, payload=payload)
        connection.send(DESTINATION, body, headers=headers)

    def close(self) -> None:
        for connection in self._connections:
            if connection.is_connected():
                connection.disconnect()


@pytest.fixture(scope="session", autouse=True)
def unavailable(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str] | None]:
    """A pytest that runs unavailable.py, begun ahead of the one test that waits for its end, if that is to be run."""
    wanted = any(item.path.name == "test_unavailable.py" for item in request.session.items)
    if not wanted or missing() is not None:
        yield None
        return
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(Path(__file__).with_name("unavailable.py")),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, cwd=ROOT
    ) as process:
        yield process
        if process.poll() is None:  # its pytest ends what it started, as after Ctrl-C
            process.send_signal(signal.SIGINT)


@pytest.fixture
def endpoint_of() -> Callable[..., BrokerEndpoint]:
    """Return endpoints of a broker, with a heart-beat of a few seconds."""
    return _endpoint_of


@pytest.fixture
def grid() -> Iterator[Grid]:
    grid = Grid()
    yield grid
    grid.close()


@pytest.fixture
async def hub_of() -> AsyncIterator[Callable[..., Hub]]:
    """Return hubs, and close them at the end."""
    hubs: list[Hub] = []

    def make(endpoint: BrokerEndpoint, instance: str = INSTANCE) -> Hub:
        hub = get_hub(endpoint, instance)
        hubs.append(hub)
        return hub

    yield make
    for hub in hubs:
        await hub.aclose()


def _endpoint_of(broker: ActiveMQ, **changed: Any) -> BrokerEndpoint:
    fields: dict[str, Any] = {
        "addresses": ((broker.host, broker.port),),
        "login": broker.subscriber.name,
        "passcode": broker.subscriber.passcode,
        "heartbeat": HEARTBEAT,
    }
    return BrokerEndpoint(**(fields | changed))
