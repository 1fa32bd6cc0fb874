"""Status messages to a broker that is not the embedded one, by stomp.py in a thread of its own."""

from __future__ import annotations

import logging
import os
import queue
import threading
from typing import Any, Final

from airflow_provider_panda.local.options import BROKER_LOGIN_VARIABLE, BROKER_PASSCODE_VARIABLE

log = logging.getLogger(__name__)

BACKLOG: Final = 100_000


class Outlet:
    """Publishes to an outside broker; while it is away, messages wait, the oldest given up first.

    The login comes from the environment (``PANDA_GRID_BROKER_LOGIN``, ``PANDA_GRID_BROKER_PASSCODE``).

    :param host: host of the broker.
    :param port: its STOMP port.
    """

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._waiting: queue.Queue[tuple[str, str] | None] = queue.Queue(BACKLOG)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="outlet", daemon=True)
        self._thread.start()

    def publish(self, destination: str, body: str) -> None:
        """Queue a message."""
        while True:
            try:
                self._waiting.put_nowait((destination, body))
            except queue.Full:
                self._waiting.get_nowait()
            else:
                return

    def close(self) -> None:
        """Send what waits, for a moment, and end."""
        self._closing.set()
        self._waiting.put(None)
        self._thread.join(5)

    def _connect(self) -> Any:
        import stomp  # type: ignore[import-untyped,unused-ignore]

        connection = stomp.Connection12([self._address], heartbeats=(10000, 10000), reconnect_attempts_max=1)
        connection.connect(os.environ.get(BROKER_LOGIN_VARIABLE), os.environ.get(BROKER_PASSCODE_VARIABLE), wait=True)
        return connection

    def _work(self) -> None:
        connection: Any = None
        pause = 0.5
        message: tuple[str, str] | None = None
        while True:
            message = message or self._waiting.get()
            if message is None:
                break
            try:
                if connection is None or not connection.is_connected():
                    connection = self._connect()
                    log.info("broker %s:%d: connected", *self._address)
                connection.send(message[0], message[1])
            except Exception as error:
                log.warning("broker %s:%d: %s; tried again in %.1f s", *self._address, error, pause)
                connection = None
                if self._closing.wait(pause):
                    break
                pause = min(pause * 2, 30)
            else:
                message, pause = None, 0.5
        if connection is not None:
            connection.disconnect()
