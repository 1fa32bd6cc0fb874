"""The iDDS benchmark measures both paths on one stack: one round, and what it prints hangs together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from demo.processes import environment
from tests.stack import stack

ROOT = Path(__file__).parents[3]
GUARD = 500.0


def test_one_round_measures_both_paths() -> None:
    if reason := stack.missing():
        pytest.skip(reason)
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/idds_overhead.py"), "--rounds", "1"],
        env=environment(), capture_output=True, text=True, check=False, timeout=GUARD,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]

    *lines, last = done.stdout.splitlines()
    told = json.loads(last)
    assert told["rounds"] == 1
    assert told["targets"] == {"end_to_end_ratio": ">= 3", "before_ratio": ">= 20", "after_ratio": ">= 20"}
    for who in ("ours", "theirs"):
        stages = told["medians_s"][who]
        parts = sum(stages[stage] for stage in ("submit", "services", "wrapper", "before", "after"))
        assert parts == pytest.approx(stages["end_to_end"], abs=0.05), "nothing but the function is between the stages"
        assert min(stages["before"], stages["after"], told["setup_s"][who]) > 0
    for stage in ("end_to_end", "before", "after"):
        medians = [told["medians_s"][who][stage] for who in ("theirs", "ours")]
        assert told[f"{stage}_ratio"] == pytest.approx(medians[0] / medians[1], rel=0.02)
    assert any(line.startswith("END TO END") for line in lines)
