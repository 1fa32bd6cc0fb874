"""The one retry policy."""

from __future__ import annotations

from itertools import pairwise

import pytest

from airflow_provider_panda.exceptions import GridAuthError, GridError, GridServerError, GridUnreachableError
from airflow_provider_panda.grid.retry import PATIENT, RetryPolicy, again, passes_by_itself


def test_pauses_grow_to_a_bound_and_are_jittered() -> None:
    policy = RetryPolicy(attempts=5, first=1, longest=3)
    assert list(policy.pauses(lambda: 1.0)) == [1, 2, 3, 3]
    assert list(policy.pauses(lambda: 0.0)) == [0.5, 1, 1.5, 1.5]
    assert list(RetryPolicy(attempts=1).pauses()) == []


@pytest.mark.parametrize(
    ("errors", "calls", "ends_with"),
    [
        ([], 1, None),
        ([GridUnreachableError("a"), GridServerError("b")], 3, None),
        ([GridServerError("a")] * 3, 3, GridServerError),
        ([GridAuthError("a")], 1, GridAuthError),
    ],
)
def test_again(errors: list[GridError], calls: int, ends_with: type[GridError] | None) -> None:
    made: list[int] = []
    paused: list[float] = []

    def action() -> str:
        made.append(1)
        if len(made) <= len(errors):
            raise errors[len(made) - 1]
        return "value"

    def run() -> str:
        return again(RetryPolicy(attempts=3), "a call", action, pause=paused.append)

    if ends_with is None:
        assert run() == "value"
    else:
        with pytest.raises(ends_with):
            run()
    assert len(made) == calls
    assert len(paused) == calls - 1


def test_patience_bounds_the_time_and_not_only_the_attempts() -> None:
    now = [0.0]
    calls: list[float] = []

    def action() -> None:
        calls.append(now[0])
        now[0] += 50  # a server that stalls
        raise GridUnreachableError("no answer in time")

    def pause(seconds: float) -> None:
        now[0] += seconds

    with pytest.raises(GridUnreachableError):
        again(PATIENT, "a call", action, pause=pause, clock=lambda: now[0])
    assert len(calls) == 4
    assert calls[-1] < 180 < now[0] < 240


def test_a_worker_outlasts_a_restart_and_gives_up_in_minutes() -> None:
    """Whatever the dice say; of refused connections, which take no time."""
    for draw in (0.0, 1.0):
        begins = [0.0]
        for seconds in PATIENT.pauses(lambda draw=draw: draw):  # type: ignore[misc]
            begins.append(begins[-1] + seconds)
        within = [moment for moment in begins if moment <= 180]
        assert within[-1] > 160, "attempts do not run out before the patience does"
        assert max(after - before for before, after in pairwise(within)) <= 15


@pytest.mark.parametrize(("asked", "least"), [(None, 0.0), (7.0, 7.0), (3600.0, 60.0), (-5.0, 0.0)])
def test_a_server_that_asks_for_a_pause_gets_it_within_bounds(asked: float | None, least: float) -> None:
    paused: list[float] = []

    def action() -> str:
        if not paused:
            raise GridServerError("busy", status=503, retry_after=asked)
        return "value"

    assert again(RetryPolicy(first=0.001), "a call", action, pause=paused.append) == "value"
    assert max(least, 0.0005) <= paused[0] <= max(least, 0.001)


def test_what_passes_by_itself() -> None:
    assert passes_by_itself(GridServerError("x"))
    assert not passes_by_itself(GridAuthError("x"))
    assert not passes_by_itself(None)
