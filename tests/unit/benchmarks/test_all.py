"""``make bench``: what it runs, and the page that it writes."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.__main__ import HERE, PROGRAMS, Program, outcome_of, page

ONE = Program(name="one", question="What does it cost?", arguments=("--rounds", "3"))


def test_every_program_of_the_folder_is_run() -> None:
    programs = {path.stem for path in HERE.glob("*.py") if "argparse" in path.read_text()} - {"__main__"}
    helpers = {"waiting_rows"}
    assert {program.name for program in PROGRAMS} == programs - helpers


def test_the_last_line_is_what_counts() -> None:
    figures = {"ratio": 0.5, "targets": {"ratio": ">= 0.7"}, "targets_missed": ["ratio"]}
    outcome = outcome_of(ONE, 0, f"a table\nof two lines\n{json.dumps(figures)}\n", 3.2)
    assert outcome.measured
    assert (outcome.output, outcome.figures) == ("a table\nof two lines", figures)


def test_a_program_that_fails_is_not_taken_for_measured() -> None:
    assert not outcome_of(ONE, 1, '{"ratio": 1}\n', 1).measured
    broken = outcome_of(ONE, 0, "Traceback\nand so on\n", 1)
    assert not broken.measured
    assert broken.output == "Traceback\nand so on"


def test_the_page_has_a_row_for_each_target_and_for_each_failure() -> None:
    figures = {"ratio": 0.5, "p99_ms": 1234.5, "targets": {"ratio": ">= 0.7", "p99_ms": "<= 2000"}}
    good = outcome_of(ONE, 0, f"the table\n{json.dumps({**figures, 'targets_missed': ['ratio']})}\n", 90)
    bad = outcome_of(Program(name="two", question="?"), 3, "oh\n", 30)
    text = page([good, bad], datetime(2026, 11, 26, tzinfo=UTC))
    assert "on 2026-11-26" in text
    assert "2 minutes in all" in text
    assert "| one | `ratio` | 0.5 | >= 0.7 | no |" in text
    assert "| one | `p99_ms` | 1,234 | <= 2000 | yes |" in text or "| one | `p99_ms` | 1,235 | <= 2000 | yes |" in text
    assert "| two |  | failed with exit code 3 |  | no |" in text
    assert "`python benchmarks/one.py --rounds 3`, 90 s." in text
    assert "the table" in text


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "benchmarks", "nosuch"], cwd=HERE.parent, capture_output=True, text=True, check=False
    )
    assert told.returncode == 2
    assert "unknown: nosuch" in told.stderr
