"""The way into the loop: in order, one wake-up for many calls, turns for others, and bounds."""

from __future__ import annotations

import asyncio
import threading
import time
from functools import partial

import pytest

from airflow_provider_panda.broker.health import Tally
from airflow_provider_panda.broker.inbox import SLICE, Inbox


class CountingLoop:
    """A loop that only counts how often it is woken."""

    def __init__(self) -> None:
        self.wakes = 0

    def call_soon_threadsafe(self, *_: object) -> None:
        self.wakes += 1


async def test_calls_are_made_in_order_and_only_after_a_wake() -> None:
    inbox, tally, made = Inbox(asyncio.get_running_loop()), Tally(), []
    for number in range(3):
        inbox.post(partial(made.append, number), tally, 10)
    await asyncio.sleep(0.01)
    assert made == []
    inbox.wake()
    await asyncio.sleep(0.01)
    assert made == [0, 1, 2]
    assert (tally.posted, tally.flushed) == (30, 30)


def test_the_loop_is_woken_once_for_all_that_wait_and_not_for_nothing() -> None:
    loop, tally = CountingLoop(), Tally()
    inbox = Inbox(loop)  # type: ignore[arg-type]
    inbox.wake()
    assert loop.wakes == 0
    for _ in range(1000):
        inbox.post(lambda: None, tally, 1)
    inbox.wake()
    inbox.wake()
    assert loop.wakes == 1


async def test_a_call_that_comes_while_others_are_made_is_not_forgotten() -> None:
    inbox, tally, made = Inbox(asyncio.get_running_loop()), Tally(), []

    def put() -> None:
        for number in range(20_000):
            inbox.post(partial(made.append, number), tally, 1)
            inbox.wake()

    thread = threading.Thread(target=put)
    thread.start()
    async with asyncio.timeout(60):
        while len(made) < 20_000:
            await asyncio.sleep(0)
    thread.join()
    assert made == list(range(20_000))


async def test_others_of_the_loop_get_their_turn() -> None:
    inbox, tally = Inbox(asyncio.get_running_loop()), Tally()
    for _ in range(4):
        inbox.post(partial(time.sleep, 1.5 * SLICE), tally, 1)
    inbox.wake()
    turns = 0
    async with asyncio.timeout(60):
        while tally.flushed < 4:
            await asyncio.sleep(0)
            turns += 1
    assert turns >= 4


async def test_a_connection_is_held_back_until_the_loop_has_taken_some() -> None:
    inbox, tally = Inbox(asyncio.get_running_loop(), backlog_limit=100), Tally()
    inbox.post(lambda: None, tally, 100)
    assert not inbox.overfull(tally)
    inbox.post(lambda: None, tally, 1)
    assert inbox.overfull(tally)
    assert not tally.drained.is_set()
    inbox.wake()
    await asyncio.sleep(0.01)
    assert tally.drained.is_set()
    assert not inbox.overfull(tally)


def test_a_loop_that_is_closed_is_told() -> None:
    loop = asyncio.new_event_loop()
    inbox = Inbox(loop)
    loop.close()
    inbox.post(lambda: None, Tally(), 1)
    with pytest.raises(RuntimeError):
        inbox.wake()
