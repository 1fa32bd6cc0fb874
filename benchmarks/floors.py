"""What no way of doing it could save: a bare start of an interpreter, and one message to the broker and back."""

from __future__ import annotations

import queue
import subprocess
import time
from typing import Any, Final

PATIENCE: Final = 60.0
"""Seconds after which a message counts as lost."""


def bare_starts(python: str, rounds: int) -> list[float]:
    """Return the seconds that starts of an interpreter take, to the end of an empty program."""
    seconds = []
    for _ in range(rounds):
        began = time.time()
        subprocess.run([python, "-c", "pass"], check=True)
        seconds.append(time.time() - began)
    return seconds


def broker_round_trips(host: str, port: int, login: str, passcode: str, rounds: int) -> list[float]:
    """Return the seconds from a message's way out to the broker until it is back, on one connection."""
    import stomp

    came: queue.Queue[str] = queue.Queue()

    class Listener(stomp.ConnectionListener):  # type: ignore[misc]
        def on_message(self, frame: Any) -> None:
            came.put(frame.body)

    connection = stomp.Connection12([(host, port)])
    connection.set_listener("benchmark", Listener())
    connection.connect(login, passcode, wait=True)
    connection.subscribe("/topic/benchmark", id="benchmark")
    seconds = []
    for number in range(rounds):
        began = time.time()
        connection.send("/topic/benchmark", str(number))
        came.get(timeout=PATIENCE)
        seconds.append(time.time() - began)
    connection.disconnect()
    return seconds
