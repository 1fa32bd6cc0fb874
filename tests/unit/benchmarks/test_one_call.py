"""The rules of the round trip: which stop is between which stamps, and what of them is the provider's."""

from __future__ import annotations

import ast

import pytest

from benchmarks.one_call import GRID, Bare, Ours, dag_files, floors, provider_share, shares, time_of

CALL = Ours(
    started=100.0, packed=100.25, submitted=101.0, job=107.0, first=107.125, last=109.0, told=109.5, xcom=111.0
)  # fmt: skip
BARE = Bare(started=50.0, fired=57.0, xcom=58.25)


def test_the_stops_and_the_function_are_the_whole() -> None:
    assert list(CALL.stops().values()) == [0.25, 0.75, 6.0, 0.125, 0.5, 1.5]
    assert sum(CALL.stops().values()) + (CALL.last - CALL.first) == CALL.xcom - CALL.started
    assert CALL.whole == sum(CALL.stops().values()) - 6.0


def test_the_shares_are_what_is_over_the_floor_and_nothing_is_the_grids() -> None:
    floor = floors([BARE], [0.0625], [0.25])
    share = shares([CALL], floor)
    assert list(share.values()) == [0.25, 0.75, 0.0, 0.0625, 0.25, 0.25]
    assert share[GRID] == 0.0
    assert provider_share([CALL], floor) == pytest.approx(sum(share.values()))


def test_a_stamp_is_the_first_of_its_lines() -> None:
    lines = [(1.0, "other"), (3.0, "starts again"), (2.0, "starts")]
    assert time_of(lines, "^starts") == 2.0
    with pytest.raises(LookupError, match=r"no line has 'ended'(?s:.)*starts again"):
        time_of(lines, "ended")


def test_the_dag_files_are_python() -> None:
    for text in dag_files().values():
        ast.parse(text)
