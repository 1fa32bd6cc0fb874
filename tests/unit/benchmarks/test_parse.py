"""The rules of the parse benchmark: both files are the same but for the decorator, turns, and what is compared."""

from __future__ import annotations

import ast

from benchmarks.parse import dag_file, figures, in_turns


def test_both_files_differ_in_the_decorator_only() -> None:
    plain, ours = dag_file("task", 3), dag_file("task.panda", 3)
    assert ours.replace("@task.panda", "@task") == plain
    (made,) = [node for node in ast.parse(ours).body if isinstance(node, ast.FunctionDef)]
    assert [node.name for node in made.body if isinstance(node, ast.FunctionDef)] == ["scan_0", "scan_1", "scan_2"]


def test_turns_alternate_and_the_first_is_not_counted() -> None:
    order: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        return float(len(order))

    taken = in_turns(2, [lambda: measure("a"), lambda: measure("b")])
    assert order == ["a", "b"] * 3
    assert taken == [[3.0, 5.0], [4.0, 6.0]]


def test_what_is_compared() -> None:
    told = figures([0.05, 0.04, 9.0], [0.1, 0.2, 0.3], [0.2, 0.3, 0.4], tasks=100)
    assert (told["import_extra_s"], told["parse_ratio"], told["rounds"]) == (0.05, 1.5, 3)
    assert told["parse_extra_ms_per_task"] == 0.5
