"""Status messages to a broker other than the embedded one."""

from __future__ import annotations

import json
import queue
from typing import Any

import stomp

from airflow_provider_panda.local.outlet import Outlet

from .conftest import RunningGrid

WAIT = 30.0


class Inbox(stomp.ConnectionListener):
    def __init__(self) -> None:
        self.bodies: queue.Queue[Any] = queue.Queue()
        self.receipts: queue.Queue[str] = queue.Queue()

    def on_message(self, frame: Any) -> None:
        self.bodies.put(json.loads(frame.body))

    def on_receipt(self, frame: Any) -> None:
        self.receipts.put(frame.headers["receipt-id"])


def test_messages_wait_for_the_broker_and_arrive_in_order(grid: RunningGrid, monkeypatch: Any) -> None:
    """The broker of one grid serves as the outside broker of an outlet."""
    logins = json.loads((grid.data / "broker.json").read_text())
    host, _, port = grid.ready["stomp"].rpartition(":")
    connection = stomp.Connection12([(host, int(port))])
    inbox = Inbox()
    connection.set_listener("", inbox)
    connection.connect(logins["login"], logins["passcode"], wait=True)
    connection.subscribe("/topic/outlet", "1", headers={"receipt": "r"})
    assert inbox.receipts.get(timeout=WAIT) == "r"
    monkeypatch.setenv("PANDA_GRID_BROKER_LOGIN", "worker")
    monkeypatch.setenv("PANDA_GRID_BROKER_PASSCODE", "wrong")
    outlet = Outlet(host, int(port))
    for number in range(20):
        outlet.publish("/topic/outlet", json.dumps(number))
    monkeypatch.setenv("PANDA_GRID_BROKER_PASSCODE", logins["publisher_passcode"])
    assert [inbox.bodies.get(timeout=WAIT) for _ in range(20)] == list(range(20))
    outlet.close()
    connection.disconnect()
