"""Watches every process that the suite started: what ends without the suite's doing is told, and started again."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from tests.chaos.installation import Part

PERIOD: Final = 0.5
"""Seconds between two looks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """A process that ended, and not by the suite.

    :param part: which.
    :param at: seconds since the watch began.
    :param tail: the end of its log.
    """

    part: str
    at: float
    tail: str


class Watch:
    """Looks at all parts until it is closed.

    :param parts: by name.
    """

    def __init__(self, parts: Mapping[str, Part]) -> None:
        self._parts = parts
        self._locks = {name: threading.Lock() for name in parts}
        self._began = time.monotonic()
        self._closed = threading.Event()
        self.deaths: list[Death] = []
        self.errors: list[str] = []
        """What could not be started again."""
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)
        self._thread.start()

    @contextmanager
    def ours(self, part: str) -> Iterator[None]:
        """While this is held, what happens to a part is the suite's doing, and one caller has it at a time."""
        with self._locks[part]:
            yield

    def close(self) -> None:
        """Stop looking."""
        self._closed.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._closed.wait(PERIOD):
            for name, part in self._parts.items():
                if not self._locks[name].acquire(blocking=False):
                    continue
                try:
                    if not part.alive():
                        self._note(part)
                        part.restart()
                except Exception as error:
                    self.errors.append(f"{name} was not started again: {error}")
                finally:
                    self._locks[name].release()

    def _note(self, part: Part) -> None:
        tail = "\n".join(part.log.read_text(errors="replace").splitlines()[-40:])
        self.deaths.append(Death(part=part.name, at=round(time.monotonic() - self._began, 1), tail=tail))
