"""The one retry policy."""

from __future__ import annotations

import pytest

from airflow_provider_panda.exceptions import GridAuthError, GridError, GridServerError, GridUnreachableError
from airflow_provider_panda.grid.retry import RetryPolicy, again, passes_by_itself


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


def test_what_passes_by_itself() -> None:
    assert passes_by_itself(GridServerError("x"))
    assert not passes_by_itself(GridAuthError("x"))
    assert not passes_by_itself(None)
