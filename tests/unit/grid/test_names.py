"""Names in PanDA and iDDS: readable, unique, and found again."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

import pytest

from airflow_provider_panda.grid.names import generation_of, request_name, request_pattern, run_mark

KEY = "afabcdefghijklmnopqr"


def test_a_mark_is_short_stable_and_of_one_run() -> None:
    mark = run_mark("abcd", "dag", "run")
    assert re.fullmatch("afabcd[a-z2-7]{14}", mark)
    assert mark == run_mark("abcd", "dag", "run")
    others = {run_mark("abcd", "dag", "run2"), run_mark("abcd", "dag2", "run"), run_mark("wxyz", "dag", "run")}
    assert len({mark, *others}) == 4


@pytest.mark.parametrize(
    ("dag_id", "run_id"),
    [
        ("dag", "run"),
        ("dag.with-all %signs*", "scheduled__2026-11-22T00:00:00+00:00"),
        ("d" * 250, "r" * 250),
        ("größe", "läuft-g5-x"),
        ("dag", "airflow-x-g7-y"),
    ],
)
def test_a_name_is_found_by_its_pattern_and_tells_its_generation(dag_id: str, run_id: str) -> None:
    mark = run_mark("abcd", dag_id, run_id)
    name = request_name(dag_id, run_id, mark, 12, KEY)
    assert fnmatchcase(name, request_pattern(mark))
    assert generation_of(name, mark) == 12
    assert name.endswith(KEY)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", name)  # it stands in a URL
    assert len(name) < 255
    other = run_mark("abcd", dag_id, f"{run_id}2")
    assert not fnmatchcase(name, request_pattern(other))
    assert generation_of(name, other) is None


@pytest.mark.parametrize("rest", ["", "-gx-k", "-g-k", "x-g1-k", "-h1-k", "-g-1-k"])
def test_names_of_others(rest: str) -> None:
    mark = run_mark("abcd", "dag", "run")
    assert generation_of(f"airflow-dag-run-{mark}{rest}", mark) is None
