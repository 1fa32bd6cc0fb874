"""Listens to a grid's status messages, as iDDS does."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any, Self

import stomp

from tests.integration.local.conftest import RunningGrid

TIMEOUT = 60.0


class Listener(stomp.ConnectionListener):  # type: ignore[misc]
    """Keeps every message of a grid's status destination."""

    def __init__(self, grid: RunningGrid) -> None:
        self._access: dict[str, str] = json.loads(Path(grid.ready["broker_file"]).read_text())
        self._arrived = threading.Condition()
        self.messages: list[tuple[dict[str, str], dict[str, Any]]] = []

    def on_message(self, frame: Any) -> None:
        with self._arrived:
            self.messages.append((frame.headers, json.loads(frame.body)))
            self._arrived.notify_all()

    def first(self, **wanted: Any) -> tuple[dict[str, str], dict[str, Any]]:
        """Return the first message whose body has these values, when it has come."""

        def found() -> tuple[dict[str, str], dict[str, Any]] | None:
            return next((m for m in self.messages if all(m[1].get(k) == v for k, v in wanted.items())), None)

        with self._arrived:
            assert self._arrived.wait_for(found, TIMEOUT), f"no message with {wanted}"
            message = found()
            assert message is not None
            return message

    def __enter__(self) -> Self:
        host, _, port = self._access["address"].rpartition(":")
        self._connection = stomp.Connection12([(host, int(port))])
        self._connection.set_listener("", self)
        self._connection.connect(self._access["login"], self._access["passcode"], wait=True)
        self._connection.subscribe(self._access["status_destination"], id="0", ack="auto")
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.disconnect()
