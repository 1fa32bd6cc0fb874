"""One event loop in a thread of its own, on which synchronous callers wait for asynchronous exchanges.

An exchange on a loop can be ended at a deadline whatever it waits for: a name server, a handshake or a server that
sends a byte a second. A blocking socket call cannot.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

NAME_THREADS: Final = 64
"""Threads for name look-ups: one that a dead name server holds must not keep others waiting."""


class LoopThread:
    """A daemon thread that runs an event loop until the process ends."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(
            concurrent.futures.ThreadPoolExecutor(max_workers=NAME_THREADS, thread_name_prefix="panda-io")
        )
        self._thread = threading.Thread(target=self._loop.run_forever, name="panda-loop", daemon=True)
        self._thread.start()

    def wait_for(self, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run what ``start`` makes on the loop and return its value; an interrupted caller cancels it."""
        future = asyncio.run_coroutine_threadsafe(start(), self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


_lock = threading.Lock()
_current: LoopThread | None = None


def loop_thread() -> LoopThread:
    """Return the loop thread of this process, started on first use."""
    global _current
    with _lock:
        if _current is None:
            _current = LoopThread()
        return _current


def _after_fork() -> None:
    """Forget the parent's thread, which does not exist in a forked child (LocalExecutor forks its workers)."""
    global _current, _lock
    _current, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
