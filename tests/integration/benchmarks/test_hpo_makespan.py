"""The makespan benchmark as a program: a small search, its tables, its last line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from demo.processes import environment

ROOT = Path(__file__).parents[3]
GUARD = 300.0


def told(*arguments: str) -> tuple[list[str], dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/hpo_makespan.py"), *arguments],
        env=environment(), capture_output=True, text=True, check=False, timeout=GUARD,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    *lines, last = done.stdout.splitlines()
    return lines, json.loads(last)


def test_a_small_search_is_compared_on_all_schedules() -> None:
    arguments = ("--evaluations", "40", "--slots", "4", "16", "--orders", "2", "--median-minutes", "20")
    lines, figures = told(*arguments)

    assert figures["over_ideal_is"] == {"schedule": "today_4x10", "slots": 16}
    by = figures["over_ideal_by"]
    assert list(by) == ["today_4x10", "today_10x4", "today_25x2", "idds_10x4", "refill", "refill_ahead"]
    assert figures["over_ideal"] == by["today_4x10"]["16"]
    for name, by_slots in by.items():
        assert set(by_slots) == {"4", "16"}
        for slots, over in by_slots.items():
            assert over >= 1, "nothing beats the ideal"
            assert 0 < figures["utilisation_by"][name][slots] <= 1
    for name, by_slots in figures["over_ideal_without_delays_by"].items():
        assert all(1 <= bare <= by[name][slots] for slots, bare in by_slots.items())
    assert all(by["refill"][slots] <= by["today_4x10"][slots] for slots in ("4", "16"))
    assert figures["targets_missed"] == []
    assert "growth" not in figures
    assert any(line.startswith("makespan over ideal") for line in lines)
    assert told(*arguments) == (lines, figures), "the same again"


def test_help_says_what_is_compared() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/hpo_makespan.py"), "--help"],
        env=environment(), capture_output=True, text=True, check=True, timeout=GUARD,
    )  # fmt: skip
    assert "over_ideal" in done.stdout
    assert "--record" in done.stdout
