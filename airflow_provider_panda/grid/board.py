"""One status request for all waiting tasks of a connection, and word of it to each of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Final, Protocol, Self

from airflow_provider_panda.exceptions import GridAnswerTooLargeError, GridError, GridRefusedError, TaskNotFoundError
from airflow_provider_panda.grid.retry import asked_pause, passes_by_itself
from airflow_provider_panda.grid.task import TaskStatus

log = logging.getLogger(__name__)

INTERVAL: Final = 60.0
"""Seconds between two status requests; messages bring results at once, this covers lost ones."""

FIRST_AFTER: Final = 2.0
"""Seconds from the first registration to the first request, so that tasks that come together share it."""

ALONE_AFTER: Final = 3
"""Requests in which a task may be missing before it is asked for alone."""

ALONE_AT_ONCE: Final = 20
"""Tasks that are asked for alone between two listings."""

LOOK_AFTER: Final = 0.3
"""Seconds from a look that is asked for to its request, so that looks that come together share one."""

LOOKED_AT_ALONE: Final = 5
"""Looks up to this number are a question for each task; more, as after a restart of the triggerer, are a listing."""

LISTING_PAUSE: Final = 10.0
"""Seconds between listings for looks: a triggerer starts its triggers over minutes (50 a second)."""

MARGIN: Final = timedelta(days=1)
"""How far before the first registration a listing reaches: modificationTime lags (facts/panda.md section 10)."""

LONGEST_BACK_OFF: Final = 180.0
"""Bound of the pause after errors, in seconds, unless the interval itself is longer: how late an end is seen."""


class StatusSource(Protocol):
    """What a board asks: an :class:`~airflow_provider_panda.grid.watch.AsyncPandaClient`."""

    async def statuses(
        self, processing_type: str, *, since: datetime | None = None, oldest: int | None = None
    ) -> list[TaskStatus]:
        """Return the tasks of one kind."""

    async def status(self, task_id: int) -> TaskStatus:
        """Return one task."""


class Registration:
    """One task that somebody waits for. Closes when used as a context manager."""

    def __init__(self, board: StatusBoard, task_id: int, name: str, deliver: Callable[[TaskStatus], None]) -> None:
        self.task_id = task_id
        self.name = name
        self.latest: TaskStatus | None = None
        self.missed = 0
        """Listings in a row without the task."""
        self.asked = 0
        """Times the task was asked for alone."""
        self._board = board
        self._deliver = deliver

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop waiting; nothing is delivered any more."""
        self._board._forget(self)

    def look(self) -> None:
        """Have the status told soon, and not only by the next poll: something may have been missed."""
        self._board._look_at(self)

    def take(self, status: TaskStatus) -> None:
        """Keep and deliver a status."""
        self.latest = status
        try:
            self._deliver(status)
        except Exception:
            log.exception("%s: the status of PanDA task %d could not be delivered", self.name, self.task_id)


class StatusBoard:
    """The status of the waiting tasks of one connection and processing type, polled while anybody waits.

    Errors of a poll fail no task: they are logged once per kind, and the pause grows.

    :param source: whom to ask.
    :param processing_type: PanDA processingType of the tasks.
    :param interval: seconds between two requests, varied by a fifth.
    :param first_after: seconds from the first registration to the first request.
    :param draw: random numbers in [0, 1).
    """

    def __init__(
        self,
        source: StatusSource,
        processing_type: str,
        *,
        interval: float = INTERVAL,
        first_after: float = FIRST_AFTER,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._source = source
        self._processing_type = processing_type
        self._interval = interval
        self._first_after = min(first_after, interval)
        self._draw = draw
        self._waiting: dict[Registration, None] = {}
        self._looks: dict[Registration, None] = {}
        self._polling: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._listed_at = -LISTING_PAUSE
        self._deserted = asyncio.Event()
        self._sooner = asyncio.Event()
        self._started: datetime | None = None
        self._failures = 0
        self._listing = False
        self._trouble: str | None = None
        self.listings = self.failed_listings = 0
        """Listings asked for, and how many of them PanDA did not give."""

    def register(self, task_id: int, *, name: str, deliver: Callable[[TaskStatus], None]) -> Registration:
        """Wait for a task: each poll that shows it calls ``deliver`` on the loop, changed or not.

        :param task_id: jediTaskID.
        :param name: name or key of the task, for the log.
        :param deliver: takes the status; must not block.
        """
        registration = Registration(self, task_id, name, deliver)
        self._waiting[registration] = None
        self._deserted.clear()
        if self._polling is None or self._polling.done():
            self._started = datetime.now(UTC)
            self._polling = asyncio.get_running_loop().create_task(self._poll(), name="panda-status-board")
        return registration

    @property
    def polling(self) -> bool:
        """Whether the board asks PanDA at all."""
        return self._polling is not None and not self._polling.done()

    def _forget(self, registration: Registration) -> None:
        self._waiting.pop(registration, None)
        self._looks.pop(registration, None)
        if not self._waiting:
            self._deserted.set()
            self._sooner.set()

    # --- looks --------------------------------------------------------------------------------------------------

    def _look_at(self, registration: Registration) -> None:
        if registration not in self._waiting:
            return
        self._looks[registration] = None
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look(), name="panda-status-looks")

    async def _look(self) -> None:
        """Answer looks: a few by a question each, many by having the next listing at once."""
        while self._looks:
            await self._rest(LOOK_AFTER)
            if len(self._looks) <= LOOKED_AT_ALONE:
                await self._look_alone()
                continue
            await self._rest(self._listed_at + LISTING_PAUSE - time.monotonic())
            self._looks.clear()
            self._sooner.set()

    async def _look_alone(self) -> None:
        looks, self._looks = list(self._looks), {}
        for registration in looks:
            try:
                await self._ask(registration)
            except TaskNotFoundError:
                continue  # normal for a minute after its submission
            except GridError as error:
                self._note(error)
                return  # the poll goes on
            except Exception:
                log.exception("%s: PanDA task %d was not looked at", registration.name, registration.task_id)

    async def _ask(self, registration: Registration) -> None:
        if registration in self._waiting:
            try:
                status = await self._source.status(registration.task_id)
            except TaskNotFoundError:
                self._answered()
                raise
            self._answered()
            if registration in self._waiting:
                registration.take(status)

    def _answered(self) -> None:
        """End the pause after errors: PanDA answers again."""
        if self._failures and not self._listing and time.monotonic() - self._listed_at > LISTING_PAUSE:
            self._sooner.set()

    async def _rest(self, seconds: float) -> None:
        """Wait, or return at once when nobody waits any more."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._deserted.wait()

    # --- polls --------------------------------------------------------------------------------------------------

    async def _poll(self) -> None:
        await self._pause(self._first_after)
        while self._waiting:
            began = time.monotonic()
            asked, self._listing = 0.0, True
            try:
                trouble = await self._round()
            except Exception:
                self._failures += 1
                log.exception("The status board of %s failed; it goes on", self._processing_type)
            else:
                self._failures = self._failures + 1 if passes_by_itself(trouble) else 0
                self._note(trouble)
                asked = asked_pause(trouble)
            finally:
                self._listing = False
            interval = max(back_off(self._interval, self._failures), asked)
            await self._pause(max(interval - (time.monotonic() - began), interval / 2))

    async def _pause(self, seconds: float) -> None:
        """Wait, or return at once when nobody waits any more, or many ask for a look."""
        varied = seconds * (0.8 + 0.4 * self._draw())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(varied):
                await self._sooner.wait()
        self._sooner.clear()

    async def _round(self) -> GridError | None:
        """Ask once, tell everyone what was found, and return what went wrong, if anything."""
        trouble: GridError | None = None
        since = self._started - MARGIN if self._started else None
        listed: list[TaskStatus] = []
        self._listed_at = time.monotonic()
        self.listings += 1
        oldest = min(registration.task_id for registration in self._waiting)
        try:
            listed = await self._source.statuses(self._processing_type, since=since, oldest=oldest)
        except (GridRefusedError, GridAnswerTooLargeError) as error:
            self.failed_listings += 1
            trouble = error  # it answers, but not to this: every task is asked for alone
        except GridError as error:
            self.failed_listings += 1
            return error
        by_id = {status.task_id: status for status in listed}
        for registration in list(self._waiting):
            status = by_id.get(registration.task_id)
            if status is not None:
                registration.missed = registration.asked = 0
                registration.take(status)
            else:
                registration.missed += 1
        missing = [registration for registration in self._waiting if registration.missed >= ALONE_AFTER]
        return await self._ask_alone(overdue(missing, ALONE_AT_ONCE)) or trouble

    async def _ask_alone(self, registrations: Sequence[Registration]) -> GridError | None:
        for registration in registrations:
            if registration not in self._waiting:
                continue
            registration.asked += 1
            try:
                await self._ask(registration)
            except TaskNotFoundError:
                if registration.asked == 1:
                    log.warning(
                        "%s: PanDA does not show task %d; it is asked again", registration.name, registration.task_id
                    )
            except GridError as error:
                return error
        return None

    def _note(self, error: GridError | None) -> None:
        """Log trouble when its kind changes, and its end."""
        kind = None if error is None else type(error).__name__
        if kind == self._trouble:
            return
        if error is None:
            log.info("Status requests for %s work again", self._processing_type)
        else:
            log.warning(
                "Status requests for %s fail (%d task(s) wait on, nothing is lost): %s",
                self._processing_type,
                len(self._waiting),
                error,
            )
        self._trouble = kind


def back_off(interval: float, failures: int) -> float:
    """Return the seconds to the next request after failures in a row: doubled each time, up to a bound.

    >>> [back_off(60, failures) for failures in range(4)]
    [60.0, 120.0, 180.0, 180.0]
    """
    return min(interval * 2.0 ** min(failures, 10), max(interval, LONGEST_BACK_OFF))


def overdue(missing: Sequence[Registration], at_once: int) -> list[Registration]:
    """Return those to ask for alone now: the ones asked least often first."""
    return sorted(missing, key=lambda registration: registration.asked)[:at_once]
