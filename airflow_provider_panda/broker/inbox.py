"""The way from the threads of the connections into the loop: in order, in batches, and bounded."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from airflow_provider_panda.broker.health import Tally

BACKLOG_LIMIT: Final = 64 * 1024 * 1024
"""Bytes of messages of one connection that may wait for the loop before the connection stops reading."""
SLICE: Final = 0.02
"""Seconds for which messages are handed over before others of the loop get their turn."""


class Inbox:
    """Calls to be made in a loop, put in by threads.

    Waking the loop costs more than a message, and a loop that is woken for one has it handed over before the next one
    is verified. So those who put calls in say when it is time to wake it: once for all messages of one read.

    :param loop: the loop.
    :param backlog_limit: bytes of one connection that may wait.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, backlog_limit: int = BACKLOG_LIMIT) -> None:
        self._loop, self._limit = loop, backlog_limit
        self._calls: deque[tuple[Callable[[], None], Tally, int]] = deque()
        self._woken = False

    def post(self, call: Callable[[], None], tally: Tally, size: int) -> None:
        """Have a call made in the loop, after the next :meth:`wake`; from the thread of a connection.

        :param call: it must not raise.
        :param tally: counts of the connection.
        :param size: bytes of the message behind it.
        """
        tally.posted += size
        self._calls.append((call, tally, size))

    def wake(self) -> None:
        """Have the loop make the calls that wait, if there are any; from the thread of a connection.

        :raises RuntimeError: the loop is closed.
        """
        if self._calls and not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._drain)

    def overfull(self, tally: Tally) -> bool:
        """Whether a connection has to stop reading; ``tally.drained`` is then set when the loop has taken some."""
        if tally.posted - tally.flushed <= self._limit:
            return False
        tally.drained.clear()
        # The loop may have taken the last ones before the event was cleared, and would not set it again.
        return tally.posted - tally.flushed > self._limit

    def _drain(self) -> None:
        self._woken = False
        until = time.monotonic() + SLICE
        while self._calls:
            call, tally, size = self._calls.popleft()
            call()
            tally.flushed += size
            tally.drained.set()
            if time.monotonic() > until:
                if not self._woken:
                    self._woken = True
                    self._loop.call_soon(self._drain)
                return
