"""The parse benchmark measures fresh interpreters, and what it prints hangs together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from demo.processes import environment

ROOT = Path(__file__).parents[3]
GUARD = 400.0


def test_two_rounds_of_a_small_file() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/parse.py"), "--rounds", "2", "--tasks", "10"],
        env=environment(), capture_output=True, text=True, check=False, timeout=GUARD,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]

    *lines, last = done.stdout.splitlines()
    told = json.loads(last)
    assert (told["rounds"], told["tasks"]) == (2, 10)
    assert min(told["import_extra_s"], told["parse_plain_s"]) > 0
    assert told["parse_ratio"] == pytest.approx(told["parse_ours_s"] / told["parse_plain_s"], rel=0.02)
    assert any(line.startswith("parse of 10 tasks with @task.panda") for line in lines)
