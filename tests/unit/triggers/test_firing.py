"""When a trigger may fire."""

from __future__ import annotations

import asyncio
import time

import pytest

from airflow_provider_panda.triggers import firing
from airflow_provider_panda.triggers.firing import PACE, settled, turn_to_fire


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return what was waited for, in seconds; nothing really waits."""
    seconds: list[float] = []

    async def sleep(delay: float) -> None:
        seconds.append(delay)

    monkeypatch.setattr(firing.asyncio, "sleep", sleep)
    return seconds


async def test_one_fires_at_once(slept: list[float]) -> None:
    await turn_to_fire()
    assert slept == []


async def test_many_that_fire_at_the_same_moment_take_turns(
    slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = asyncio.get_running_loop().time()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
    for _ in range(5):
        await turn_to_fire()
    assert slept == pytest.approx([number / PACE for number in range(1, 5)])


async def test_turns_that_have_passed_are_not_saved_up(slept: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now)
    await turn_to_fire()
    now += 60
    await turn_to_fire()
    await turn_to_fire()
    assert slept == pytest.approx([1 / PACE])


def test_another_loop_has_turns_of_its_own(slept: list[float]) -> None:
    for _ in range(2):
        asyncio.run(turn_to_fire())
    assert slept == []


async def test_a_deferral_that_is_not_known_yet_is_waited_for(slept: list[float]) -> None:
    await settled(None)
    assert slept == []
    await settled(time.time() + 5)
    assert slept == [pytest.approx(5, abs=1)]
