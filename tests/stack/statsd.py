"""A StatsD server for tests: keeps what arrives on a UDP port of loopback, by metric."""

from __future__ import annotations

import socket
import threading
from collections import defaultdict
from contextlib import suppress


class Statsd:
    """A server that only listens. It keeps values as sent (``5|c``, ``3|g``, ``1.5|ms``), the last 1000 of each metric.

    :ivar port: its UDP port.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._values: dict[str, list[str]] = defaultdict(list)
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()

    def values(self, metric: str) -> list[str]:
        """Return what was sent for a metric."""
        with self._lock:
            return list(self._values.get(metric, ()))

    def metrics(self, beginning: str) -> list[str]:
        """Return the names of metrics with a beginning."""
        with self._lock:
            return sorted(name for name in self._values if name.startswith(beginning))

    def total(self, counter: str) -> int:
        """Return what a counter amounts to."""
        return sum(int(value.removesuffix("|c")) for value in self.values(counter))

    def close(self) -> None:
        """Stop listening."""
        with suppress(OSError):
            self._socket.sendto(b"", ("127.0.0.1", self.port))  # wakes the thread
        self._thread.join(10)
        self._socket.close()

    def _receive(self) -> None:
        while packet := self._socket.recv(65536):
            for line in packet.decode("utf-8", "replace").splitlines():
                name, _, value = line.partition(":")
                with self._lock:
                    self._values[name] = [*self._values[name][-999:], value]
