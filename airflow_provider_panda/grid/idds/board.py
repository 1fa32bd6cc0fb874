"""One listing per DAG run for all of its tasks that iDDS has not handed to PanDA yet, and word of it to each.

iDDS publishes nothing when a function's transform moves (facts/idds.md section 5), so its request is listed: soon
after a submission, then ever more seldom. From the PanDA task on, the
:class:`~airflow_provider_panda.grid.board.StatusBoard` tells more, and of all DAG runs at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from airflow_provider_panda.exceptions import GridError
from airflow_provider_panda.grid.idds.answers import RequestStatus, TransformStatus

log = logging.getLogger(__name__)

FIRST_AFTER: Final = 2.0
"""Seconds from a registration to a listing: the quickest iDDS takes 1.5 s to PanDA (facts/idds.md section 6)."""

GROWTH: Final = 1.5
"""How much longer each pause is than the one before, up to the poll interval."""


AT_ONCE: Final = 8
"""Listings under way: while iDDS is slow or away, those of many DAG runs wait here and not in its queue."""


class RequestSource(Protocol):
    """What a board asks: an :class:`~airflow_provider_panda.grid.idds.client.AsyncIddsClient`."""

    async def request(self, request_id: int) -> RequestStatus | None:
        """Return a request with its transforms."""


Deliver = Callable[[TransformStatus | None, RequestStatus | None], None]
"""Takes what a listing says of a transform: None for what iDDS does not know. Must not block."""


@dataclass(eq=False, slots=True)
class _Waiting:
    transform_id: int
    deliver: Deliver


class RequestBoard:
    """The transforms that are waited for, by request. Errors of a listing fail no task.

    :param source: whom to ask.
    :param interval: longest pause between two listings of a request, in seconds.
    :param first_after: the first pause.
    :param draw: random numbers in [0, 1).
    """

    def __init__(
        self,
        source: RequestSource,
        *,
        interval: float,
        first_after: float = FIRST_AFTER,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._source = source
        self._interval = interval
        self._first_after = min(first_after, interval)
        self._draw = draw
        self._waiting: dict[int, dict[_Waiting, None]] = {}
        self._polls: dict[int, asyncio.Task[None]] = {}
        self._sooner: dict[int, asyncio.Event] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)

    @contextmanager
    def waiting(self, request_id: int, transform_id: int, deliver: Deliver) -> Iterator[None]:
        """Wait for a transform inside of the context: each listing of its request calls ``deliver`` on the loop."""
        waiting = _Waiting(transform_id, deliver)
        self._waiting.setdefault(request_id, {})[waiting] = None
        if request_id in self._polls:
            self._sooner[request_id].set()
        else:
            self._sooner[request_id] = asyncio.Event()
            poll = asyncio.get_running_loop().create_task(self._poll(request_id), name=f"idds-request-{request_id}")
            self._polls[request_id] = poll
        try:
            yield
        finally:
            of_request = self._waiting.get(request_id, {})
            of_request.pop(waiting, None)
            if not of_request and (poll_task := self._polls.pop(request_id, None)) is not None:
                del self._waiting[request_id], self._sooner[request_id]
                poll_task.cancel()

    async def _poll(self, request_id: int) -> None:
        sooner, trouble, pause = self._sooner[request_id], "", self._first_after
        due = self._after(pause)
        while True:
            try:
                async with asyncio.timeout_at(due):
                    await sooner.wait()
            except TimeoutError:
                pause = min(pause * GROWTH, self._interval)
            else:  # somebody new: those who come together share a listing, and who keeps coming does not delay it
                sooner.clear()
                pause = self._first_after
                due = min(due, self._after(pause))
                continue
            trouble = await self._list(request_id, trouble)
            due = self._after(pause)

    def _after(self, pause: float) -> float:
        """Return the time on the loop's clock after a pause, varied by a fifth."""
        return asyncio.get_running_loop().time() + pause * (0.8 + 0.4 * self._draw())

    async def _list(self, request_id: int, trouble: str) -> str:
        """List a request once and tell who waits; return the kind of what went wrong, which is logged once."""
        try:
            async with self._turns:
                status = await self._source.request(request_id)
        except GridError as error:
            if type(error).__name__ != trouble:
                log.warning("iDDS request %d cannot be listed (its tasks wait on): %s", request_id, error)
            return type(error).__name__
        except Exception:
            log.exception("the listing of iDDS request %d failed; it goes on", request_id)
            return trouble
        self._tell(request_id, status)
        return ""

    def _tell(self, request_id: int, status: RequestStatus | None) -> None:
        found = {transform.transform_id: transform for transform in (status.transforms if status else ())}
        for waiting in list(self._waiting.get(request_id, ())):
            try:
                waiting.deliver(found.get(waiting.transform_id), status)
            except Exception:
                log.exception("the status of iDDS transform %d could not be delivered", waiting.transform_id)
