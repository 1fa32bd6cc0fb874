"""A short run of the suite: every kind of fault once, in two minutes (a long one: ``make chaos MINUTES=20``)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.plan import KINDS, PROXY_KINDS, make_plan
from tests.chaos.run import Options, run
from tests.stack import activemq, postgres

SECONDS = 90.0
GAP = 3.5
SEEDS = (3,)
"""Of plans that have every kind within :data:`SECONDS`."""

CHOSEN = [*KINDS.values(), *PROXY_KINDS.values()]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost_or_doubled_while_everything_is_killed_and_stalled(seed: int, tmp_path: Path):
    if reason := activemq.missing() or postgres.missing():
        pytest.skip(reason)
    plan = make_plan(seed, seconds=SECONDS, gap=GAP, kinds=CHOSEN)
    assert {fault.kind for fault in plan} == set(CHOSEN), "choose another seed"
    options = Options(
        seed=seed, seconds=SECONDS, gap=GAP, kinds=CHOSEN, least_tasks=36, jobs=5, at_once=3, patience=120
    )
    report = run(options, tmp_path)
    print(report.text())
    assert report.complaints() == [], f"seed {seed}; logs: {tmp_path}"
    assert sum(report.faults.values()) + sum(report.missed.values()) == len(plan)
    assert sum(report.missed.values()) <= 2
    assert report.verdict.recovered > 0
    assert report.verdict.jobs >= 130
