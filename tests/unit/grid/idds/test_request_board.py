"""The board of requests: one listing for all who wait, soon at first, then seldom; errors fail nobody."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import pytest

from airflow_provider_panda.exceptions import GridAuthError, GridUnreachableError
from airflow_provider_panda.grid.idds import board as module
from airflow_provider_panda.grid.idds.answers import RequestStatus, TransformStatus
from airflow_provider_panda.grid.idds.board import GROWTH, RequestBoard

PATIENCE = 60.0
"""Seconds that a test waits at most for what is due at once."""


def listing(*transforms: int, request_id: int = 1) -> RequestStatus:
    made = tuple(TransformStatus(transform_id=each, name="t", status="New") for each in transforms)
    return RequestStatus(request_id=request_id, name="r", status="Transforming", transforms=made)


class Idds:
    """Answers by request; an error is raised."""

    def __init__(self, **answers: RequestStatus | Exception | None) -> None:
        self.answers: dict[int, Any] = {int(name[1:]): answer for name, answer in answers.items()}
        self.asked: list[int] = []

    async def request(self, request_id: int) -> RequestStatus | None:
        self.asked.append(request_id)
        await asyncio.sleep(0)
        answer = self.answers[request_id]
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]


class Heard:
    """What one who waits was told."""

    def __init__(self) -> None:
        self.told: list[tuple[int | None, int | None]] = []
        self._event = asyncio.Event()

    def __call__(self, transform: TransformStatus | None, request: RequestStatus | None) -> None:
        self.told.append((transform and transform.transform_id, request and request.request_id))
        self._event.set()

    async def more(self) -> None:
        self._event.clear()
        async with asyncio.timeout(PATIENCE):
            await self._event.wait()


async def still(idds: Idds) -> bool:
    """Return whether no listing follows for a while."""
    asked = len(idds.asked)
    await asyncio.sleep(0.1)
    return len(idds.asked) == asked


def polls() -> list[str]:
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("idds-request-")]


async def no_polls() -> None:
    async with asyncio.timeout(PATIENCE):
        while polls():
            await asyncio.sleep(0)


def quick(idds: Idds, **options: Any) -> RequestBoard:
    return RequestBoard(idds, **{"interval": 0.01, "first_after": 0.01, "draw": lambda: 0.5, **options})


async def test_one_listing_tells_all_who_wait_for_a_request() -> None:
    idds = Idds(r1=listing(1, 2, 3))
    board = quick(idds, interval=60, first_after=0.05)
    heard = [Heard() for _ in range(4)]
    with contextlib.ExitStack() as stack:
        for transform_id, each in enumerate(heard, 1):
            stack.enter_context(board.waiting(1, transform_id, each))
        await heard[3].more()
        assert idds.asked == [1]
    assert [each.told for each in heard] == [[(1, 1)], [(2, 1)], [(3, 1)], [(None, 1)]]
    await no_polls()


async def test_requests_are_listed_each_for_itself() -> None:
    idds = Idds(r1=listing(1), r2=None)
    board = quick(idds)
    one, two = Heard(), Heard()
    with board.waiting(1, 1, one), board.waiting(2, 1, two):
        await one.more()
        await two.more()
        assert sorted(polls()) == ["idds-request-1", "idds-request-2"]
    assert set(idds.asked) == {1, 2}
    assert set(one.told) == {(1, 1)}
    assert set(two.told) == {(None, None)}  # iDDS does not know the request
    await no_polls()


NOW = 1000.0


class Timeouts:
    """Stands in for ``asyncio.timeout_at`` in the board: each pause is over at once, and noted."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def __call__(self, when: float) -> Any:
        self.pauses.append(when - NOW)
        return asyncio.timeout_at(asyncio.get_running_loop().time())


class StillLoop:
    """The running loop, with a clock that stands still."""

    def time(self) -> float:
        return NOW

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio.get_running_loop(), name)


class Patched:
    """The asyncio that the board sees."""

    def __init__(self, timeouts: Timeouts) -> None:
        self.timeout_at, self.get_running_loop = timeouts, StillLoop

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)


@pytest.fixture
def timeouts(monkeypatch: pytest.MonkeyPatch) -> Timeouts:
    made = Timeouts()
    monkeypatch.setattr(module, "asyncio", Patched(made))
    return made


async def test_pauses_grow_up_to_the_interval(timeouts: Timeouts) -> None:
    board = RequestBoard(Idds(r1=listing(1)), interval=20, first_after=2, draw=lambda: 0.5)
    heard = Heard()
    with board.waiting(1, 1, heard):
        while len(heard.told) < 9:
            await heard.more()
    expected = [min(2 * GROWTH**n, 20) for n in range(9)]
    assert timeouts.pauses[:9] == pytest.approx(expected, abs=1e-6)
    await no_polls()


@pytest.mark.parametrize(("draw", "pause"), [(0.0, 1.6), (0.5, 2.0), (1.0, 2.4)])
async def test_pauses_are_varied_by_a_fifth(timeouts: Timeouts, draw: float, pause: float) -> None:
    board = RequestBoard(Idds(r1=listing(1)), interval=20, first_after=2, draw=lambda: draw)
    heard = Heard()
    with board.waiting(1, 1, heard):
        await heard.more()
    assert timeouts.pauses[0] == pytest.approx(pause, abs=1e-6)
    await no_polls()


async def test_the_first_pause_is_no_longer_than_the_interval(timeouts: Timeouts) -> None:
    board = RequestBoard(Idds(r1=listing(1)), interval=1, draw=lambda: 0.5)
    heard = Heard()
    with board.waiting(1, 1, heard):
        await heard.more()
    assert timeouts.pauses[0] == pytest.approx(1, abs=1e-6)
    await no_polls()


async def test_somebody_new_is_told_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROWTH", 1e9)  # after one listing the pause is the longest
    idds = Idds(r1=listing(1, 2))
    board = RequestBoard(idds, interval=10_000, first_after=0.01, draw=lambda: 0.5)
    first, second = Heard(), Heard()
    with board.waiting(1, 1, first):
        await first.more()
        assert await still(idds)
        with board.waiting(1, 2, second):
            await second.more()
    assert second.told[0] == (2, 1)
    await no_polls()


async def test_those_who_keep_coming_do_not_keep_it_from_listing() -> None:
    """A DAG run may submit a task a second for an hour."""
    board = RequestBoard(Idds(r1=listing(1)), interval=10_000, first_after=0.2, draw=lambda: 0.5)
    first = Heard()
    with contextlib.ExitStack() as stack:
        stack.enter_context(board.waiting(1, 1, first))
        async with asyncio.timeout(PATIENCE):
            while not first.told:
                stack.enter_context(board.waiting(1, 1, Heard()))
                await asyncio.sleep(0.02)
    await no_polls()


async def test_an_error_is_logged_once_and_the_listing_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    idds = Idds(r1=GridUnreachableError("away"))
    heard = Heard()
    with caplog.at_level(logging.WARNING, module.__name__), quick(idds).waiting(1, 1, heard):
        while len(idds.asked) < 4:
            await asyncio.sleep(0.01)
        assert [record.getMessage() for record in caplog.records] == [
            "iDDS request 1 cannot be listed (its tasks wait on): away"
        ]
        assert heard.told == []
        idds.answers[1] = GridAuthError("the token has expired")
        asked = len(idds.asked)
        while len(idds.asked) < asked + 3:
            await asyncio.sleep(0.01)
        assert len(caplog.records) == 2  # another kind of trouble
        idds.answers[1] = listing(1)
        await heard.more()
        idds.answers[1] = GridAuthError("the token has expired")  # new trouble after it had worked
        asked = len(idds.asked)
        while len(idds.asked) < asked + 3:
            await asyncio.sleep(0.01)
        assert len(caplog.records) == 3
    await no_polls()


async def test_a_bug_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    idds = Idds(r1=RuntimeError("unforeseen"))
    heard = Heard()
    with quick(idds).waiting(1, 1, heard):
        while len(idds.asked) < 2:
            await asyncio.sleep(0.01)
        idds.answers[1] = listing(1)
        await heard.more()
    assert "the listing of iDDS request 1 failed; it goes on" in caplog.text
    await no_polls()


async def test_one_who_cannot_be_told_does_not_keep_it_from_others(caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: Any) -> None:
        raise ValueError("no ears")

    heard = Heard()
    board = quick(Idds(r1=listing(1, 2)))
    with board.waiting(1, 1, broken), board.waiting(1, 2, heard):
        await heard.more()
        await heard.more()
    assert "the status of iDDS transform 1 could not be delivered" in caplog.text
    await no_polls()


async def test_nobody_is_told_after_leaving_and_nothing_is_left() -> None:
    idds = Idds(r1=listing(1, 2))
    board = quick(idds)
    gone, stays = Heard(), Heard()
    with board.waiting(1, 2, stays):
        with board.waiting(1, 1, gone):
            await gone.more()
        known = len(gone.told)
        await stays.more()
        await stays.more()
        assert len(gone.told) == known
    await no_polls()
    assert await still(idds)
    assert (board._waiting, board._polls, board._sooner) == ({}, {}, {})


async def test_cancelled_waits_close_the_poll() -> None:
    idds = Idds(r1=listing(1))
    board = quick(idds)
    heard = Heard()

    async def waits() -> None:
        with board.waiting(1, 1, heard):
            await asyncio.Event().wait()

    tasks = [asyncio.create_task(waits()) for _ in range(3)]
    await heard.more()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await no_polls()
    with board.waiting(1, 1, heard):  # and it starts again
        await heard.more()
    await no_polls()


async def test_one_may_leave_while_being_told() -> None:
    stack = contextlib.ExitStack()
    told: list[int] = []

    def deliver(transform: TransformStatus | None, request: RequestStatus | None) -> None:
        assert transform is not None
        told.append(transform.transform_id)
        stack.close()

    board = quick(Idds(r1=listing(1)))
    stack.enter_context(board.waiting(1, 1, deliver))
    await no_polls()
    assert told == [1]


async def test_requests_of_many_runs_are_listed_a_few_at_a_time() -> None:
    """An iDDS that stalls has no five thousand calls before it, and all are told when it answers."""
    answering = asyncio.Event()
    under_way = most = 0

    class Stalled:
        async def request(self, request_id: int) -> RequestStatus | None:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            try:
                await answering.wait()
                return listing(7, request_id=request_id)
            finally:
                under_way -= 1

    board = RequestBoard(Stalled(), interval=60, first_after=0.01)
    heard = [Heard() for _ in range(300)]
    with contextlib.ExitStack() as stack:
        for number, one in enumerate(heard):
            stack.enter_context(board.waiting(number, 7, one))
        async with asyncio.timeout(PATIENCE):
            while under_way < module.AT_ONCE:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0)
        answering.set()
        async with asyncio.timeout(PATIENCE):
            while not all(one.told for one in heard):
                await asyncio.sleep(0.01)
    assert most == module.AT_ONCE
