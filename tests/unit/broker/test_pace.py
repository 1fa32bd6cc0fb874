"""Back-off, and the arithmetic of heart-beats."""

from __future__ import annotations

import itertools

import pytest

from airflow_provider_panda.broker.pace import LONGEST_DELAY, HeartBeats, Pulse, agree, backoff


def test_backoff_doubles_up_to_the_longest() -> None:
    assert list(itertools.islice(backoff(1.0, 5.0, rng=lambda: 1.0), 5)) == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert list(itertools.islice(backoff(1.0, 5.0, rng=lambda: 0.0), 5)) == [0.5, 1.0, 2.0, 2.5, 2.5]


def test_backoff_is_spread_and_bounded() -> None:
    delays = list(itertools.islice(backoff(), 200))
    assert len(set(delays)) > 190
    assert max(delays) <= LONGEST_DELAY


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("10000,10000", HeartBeats(10, 10, probe=False)),
        ("5000,5000", HeartBeats(10, 10, probe=False)),
        ("20000,30000", HeartBeats(30, 20, probe=False)),
        ("0,0", HeartBeats(10, 10, probe=True)),
        (None, HeartBeats(10, 10, probe=True)),
        ("nonsense", HeartBeats(10, 10, probe=True)),
        ("-5,10", HeartBeats(10, 10, probe=True)),
        ("0,20000", HeartBeats(20, 10, probe=True)),
        ("20000,0", HeartBeats(10, 20, probe=False)),
        ("99999999999,99999999999", HeartBeats(60, 10, probe=True)),
        ("1, 1", HeartBeats(10, 10, probe=False)),
    ],
)
def test_agreement(answer: str | None, expected: HeartBeats) -> None:
    assert agree(10.0, answer) == expected


def test_pulse_of_a_broker_that_beats() -> None:
    pulse = Pulse(HeartBeats(10, 10, probe=False), now=100.0)
    assert not pulse.beat_due(108.9)
    assert pulse.beat_due(109.0)
    assert not pulse.silent(120.0)
    assert pulse.silent(120.1)
    assert not pulse.probe_due(1000.0)
    assert pulse.until_next(100.0) == pytest.approx(9.0)
    assert pulse.until_next(200.0) == 0.0


def test_pulse_of_a_broker_that_has_to_be_asked() -> None:
    pulse = Pulse(HeartBeats(10, 10, probe=True), now=100.0)
    assert not pulse.probe_due(109.9)
    assert pulse.probe_due(110.0)
    pulse.probed = 110.0
    assert not pulse.probe_due(119.9)
    pulse.received = 111.0
    assert not pulse.silent(131.0)
    assert pulse.silent(131.1)
