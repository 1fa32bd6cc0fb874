"""A hint when PanDA has stopped moving a task."""

from __future__ import annotations

import pytest

from airflow_provider_panda.grid.stillness import BRIEF, PATIENCE, Stillness
from airflow_provider_panda.grid.task import PHASES, TaskStatus, phase_of


def status(state: str) -> TaskStatus:
    return TaskStatus(task_id=7, name="n", status=state, phase=phase_of(state))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_told_once_for_each_state() -> None:
    clock = Clock()
    stillness = Stillness(clock)
    hints = []
    for state in ["registered"] * 40 + ["defined"] * 40:
        hints.append(stillness.hint(status(state)))
        clock.now += 60
    told = [hint for hint in hints if hint]
    assert len(told) == 2
    assert "task 7 in state registered for 30 minutes" in told[0]
    assert "in state defined" in told[1]
    assert hints.index(told[0]) == 30


@pytest.mark.parametrize("state", ["pending", "ready", "running", "throttled", "paused", "done", "failed"])
def test_a_full_grid_is_no_reason(state: str) -> None:
    clock = Clock()
    stillness = Stillness(clock)
    assert stillness.hint(status(state)) is None
    clock.now += 100 * PATIENCE
    assert stillness.hint(status(state)) is None


def test_the_states_exist_and_are_on_the_way_to_another() -> None:
    assert set(PHASES) >= BRIEF
    assert not any(PHASES[state].terminal for state in BRIEF)
