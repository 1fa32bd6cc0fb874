"""A plan of faults is the same for the same seed, gives each victim its rest, and leaves no kind out."""

from itertools import pairwise

import pytest

from tests.chaos.faults import DISTURBANCES
from tests.chaos.plan import ALL_KINDS, KINDS, PROXY_KINDS, Action, make_plan

EVERYTHING = list(ALL_KINDS.values())
SEEDS = range(20)


def test_same_seed_same_faults():
    first, again = (make_plan(7, seconds=600, gap=5, kinds=EVERYTHING) for _ in range(2))
    assert first == again
    assert first != make_plan(8, seconds=600, gap=5, kinds=EVERYTHING)


def test_longer_run_begins_with_the_same_faults():
    short, long = (make_plan(7, seconds=seconds, gap=5, kinds=EVERYTHING) for seconds in (200, 1200))
    assert long[: len(short)] == short
    assert len(long) > len(short)


@pytest.mark.parametrize("seed", SEEDS)
def test_one_victim_has_one_fault_at_a_time_and_its_rest(seed):
    faults = make_plan(seed, seconds=1200, gap=3, kinds=EVERYTHING)
    for victim in {fault.kind.victim for fault in faults}:
        own = [fault for fault in faults if fault.kind.victim == victim]
        for one, other in pairwise(own):
            assert other.at >= one.at + one.seconds + one.kind.rest - 0.02  # both are rounded


@pytest.mark.parametrize("seed", SEEDS)
def test_every_kind_comes_in_twenty_minutes(seed):
    faults = make_plan(seed, seconds=1200, gap=6, kinds=EVERYTHING)
    assert {fault.kind.name for fault in faults} == set(ALL_KINDS)
    assert len(faults) >= 120


@pytest.mark.parametrize("seed", SEEDS)
def test_times_and_lengths_are_within_their_bounds(seed):
    faults = make_plan(seed, seconds=300, gap=4, kinds=EVERYTHING)
    assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)
    for fault in faults:
        least, most = fault.kind.seconds
        assert 0 < fault.at <= 300
        assert least <= fault.seconds <= most
        assert 0 <= fault.draw < 1


def test_only_the_kinds_asked_for_come():
    one = [KINDS["broker-kill"]]
    assert {fault.kind.name for fault in make_plan(1, seconds=300, gap=5, kinds=one)} == {"broker-kill"}


def test_the_proxy_knows_every_disturbance():
    assert set(DISTURBANCES) == set(PROXY_KINDS)
    assert {kind.name for kind in EVERYTHING if kind.action is Action.DISTURB} == set(PROXY_KINDS)
