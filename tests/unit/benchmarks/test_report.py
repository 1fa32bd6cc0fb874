"""What benchmarks print: tables, targets, and the last line."""

from __future__ import annotations

import json

import pytest

from benchmarks.report import Target, finish, print_table, spread


def test_a_spread_is_median_least_and_most() -> None:
    assert spread([3.0, 1.0, 2.0]) == "2.00 (1.00-3.00)"
    assert spread([1234.5], digits=0) == "1,234"


def test_a_table_lines_its_columns_up(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("what", "ms"), [("a longer name", 1.5), ("b", 100)])
    assert capsys.readouterr().out.splitlines() == ["what            ms", "a longer name  1.5", "b              100"]


def test_the_last_line_is_json_that_names_the_targets_that_were_missed(capsys: pytest.CaptureFixture[str]) -> None:
    finish(
        {"ratio": 0.8, "p99_ms": 60.0, "note": "x"},
        [Target(key="ratio", limit=0.7, at_least=True), Target(key="p99_ms", limit=50)],
    )
    *table, last = capsys.readouterr().out.splitlines()
    assert json.loads(last) == {
        "ratio": 0.8, "p99_ms": 60.0, "note": "x",
        "targets": {"ratio": ">= 0.7", "p99_ms": "<= 50"}, "targets_missed": ["p99_ms"],
    }  # fmt: skip
    assert [line.split()[-1] for line in table if line.startswith(("ratio", "p99"))] == ["met", "MET"]
    assert next(line for line in table if line.startswith("p99")).endswith("NOT MET")
