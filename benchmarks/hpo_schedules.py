"""Schedules of a hyperparameter search: when which evaluations are submitted, and what Airflow or iDDS adds to it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks.virtual_grid import VirtualGrid

Ask = Callable[[int], float]
"""Seconds in which the optimiser that knows so many points gives one more."""


class Schedule(Protocol):
    """A way to have evaluations made."""

    @property
    def wrapper(self) -> float:
        """Seconds of a slot before each function starts."""

    def run(self, grid: VirtualGrid, durations: Sequence[float], ask: Ask) -> None:
        """Have evaluations made; return at the time when all are known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """One PanDA task a round; the next round is suggested when all of it is in. Times are in seconds.

    :param points: evaluations of a round.
    :param before: from the start to the first round's submission.
    :param between: from a round's last result, where its job ends, to the next one's submission.
    :param after: from the last round's last result to the end.
    :param wrapper: of a slot, before each function starts.
    :param candidates: points that the optimiser is asked for each evaluation.
    """

    points: int
    before: float
    between: float
    after: float
    wrapper: float = 0.0
    candidates: int = 1

    def run(self, grid: VirtualGrid, durations: Sequence[float], ask: Ask) -> None:
        """Have evaluations made; return at the time when all are known."""
        for known in range(0, len(durations), self.points):
            batch = durations[known : known + self.points]
            grid.wait(self.between if known else self.before)
            grid.wait(len(batch) * self.candidates * ask(known))
            task = grid.submit(batch)
            grid.wait_until(lambda task=task: not task.missing)  # type: ignore[misc]
        grid.wait(self.after)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refill:
    """Ask and tell without rounds: each result is followed by the next evaluation. Times are in seconds.

    One optimiser takes turns: all results that came since its last turn are told, as many points asked for, and those
    submitted as one PanDA task. So turns become longer, not more, where results come faster than it asks.

    :param in_flight: evaluations that are on the grid at once: the slots, and some more to hide the grid's delays.
    :param before: from the start to the first submission.
    :param turn: of each turn, besides the optimiser's own time: message, archive, submission.
    :param gather: from a result to the turn that takes it, and all that came meanwhile.
    :param after: from the last result to the end.
    :param wrapper: of a slot, before each function starts.
    :param candidates: points that the optimiser is asked for each evaluation.
    """

    in_flight: int
    before: float
    turn: float
    after: float
    gather: float = 0.0
    wrapper: float = 0.0
    candidates: int = 1

    def run(self, grid: VirtualGrid, durations: Sequence[float], ask: Ask) -> None:
        """Have evaluations made; return at the time when all are known."""
        waiting = deque(durations)
        missing = len(waiting)
        untold = 0
        turning = False

        def ended() -> None:
            nonlocal missing, untold
            missing -= 1
            untold += 1
            plan_turn()

        def plan_turn() -> None:
            nonlocal turning
            if untold and waiting and not turning:
                turning = True
                grid.at(grid.now + self.gather, take_turn)

        def take_turn() -> None:
            nonlocal untold
            count, untold = min(untold, len(waiting)), 0
            known = len(durations) - missing
            grid.at(grid.now + self.turn + count * self.candidates * ask(known), lambda: submit(count))

        def submit(count: int) -> None:
            nonlocal turning
            turning = False
            grid.submit([waiting.popleft() for _ in range(count)], ended)
            plan_turn()

        first = min(self.in_flight, missing)
        grid.wait(self.before + first * self.candidates * ask(0))
        submit(first)
        grid.wait_until(lambda: not missing)
        grid.wait(self.after)
