"""An embedded grid, a real broker, and the connections to both."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from airflow_provider_panda import configuration
from airflow_provider_panda.grid.names import secret_name
from airflow_provider_panda.grid.task import instance_id
from airflow_provider_panda.hooks.panda import PandaHook
from airflow_provider_panda.hooks.stomp import StompHook
from airflow_provider_panda.payload.delivery import user_secret
from demo.grid import Grid
from tests.stack.activemq import ActiveMQ


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    grid = Grid(tmp_path_factory.mktemp("grid"), ["--slots", "6", "--register-delay", "0.5"])
    yield grid
    grid.stop()


@pytest.fixture(autouse=True)
def connections(grid: Grid, activemq: ActiveMQ, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make the connections, set the instance up, and return what gives it another secret."""
    monkeypatch.setenv("AIRFLOW_CONN_BROKER", json.dumps(activemq.connection()))
    monkeypatch.setattr(configuration, "poll_interval", lambda: 1.0)

    def use(secret: str) -> None:
        panda = {
            "conn_type": "panda",
            "host": grid.url,
            "password": grid.token(),
            "extra": {"auth": "token", "vo": "wlcg", "broker_conn_id": "broker", "instance_secret": secret},
        }
        monkeypatch.setenv("AIRFLOW_CONN_PANDA_DEFAULT", json.dumps(panda))
        delivered = user_secret(secret, StompHook("broker").get_conn())
        PandaHook("panda_default").grid().set_secret(secret_name(instance_id(secret)), delivered)

    use("secret of the operators' tests")
    return use
