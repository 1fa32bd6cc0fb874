"""What runs while faults happen: the DAGs, how large they are, and what each of their tasks must return."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

SOURCE: Final = Path(__file__).parent / "dags" / "chaos_functions.py"
DIRECT: Final = "chaos"
THROUGH_IDDS: Final = "chaos_idds"

_MAPPED: Final = {DIRECT: ("spread", "slow", "large", "raises_once"), THROUGH_IDDS: ("through_many",)}
_SINGLE: Final = {DIRECT: ("single", "fails_once"), THROUGH_IDDS: ("through",)}
_SUMMED: Final = {DIRECT: "spread", THROUGH_IDDS: "through_many"}
TOTAL: Final = "total"
"""The task that is none of the grid, and takes the values of one that is."""

TRIES: Final[Mapping[str, int]] = {"fails_once": 2}
"""Tries that a task needs without any fault, where it is not one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The DAGs of a run.

    :param jobs: jobs of each task that has several.
    :param idds: whether some tasks go through iDDS.
    """

    jobs: int
    idds: bool

    def dag_file(self, marks: Path) -> str:
        """Return the text of the DAG file.

        :param marks: folder in which functions leave that they ran once.
        """
        text = SOURCE.read_text()
        filled = {
            "@WORKER_PYTHON@": sys.executable,
            "@MARKS@": str(marks),
            "@JOBS@": str(self.jobs),
            "@IDDS@": "yes" if self.idds else "no",
        }
        for word, value in filled.items():
            text = text.replace(word, value)
        return text

    @property
    def dags(self) -> tuple[str, ...]:
        """The DAGs there are."""
        return (DIRECT, THROUGH_IDDS) if self.idds else (DIRECT,)

    def grid_tasks(self, dag_id: str) -> dict[str, int]:
        """Return the grid tasks of a DAG and how many jobs each has."""
        return {**dict.fromkeys(_SINGLE[dag_id], 1), **dict.fromkeys(_MAPPED[dag_id], self.jobs)}

    def attempts(self, task_id: str, jobs: int) -> int:
        """Return how many attempts at jobs a grid task needs without any fault, over all its tries."""
        extra = {"raises_once": (jobs + 1) // 2, "fails_once": 1}
        return jobs + extra.get(task_id, 0)

    def expected(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """Return what each task of a DAG run must return, as XCom has it."""
        values: dict[str, Any] = {name: _worth(run_id, name, 0) for name in _SINGLE[dag_id]}
        for name in _MAPPED[dag_id]:
            values[name] = [_worth(run_id, name, n) for n in range(self.jobs)]
        if "large" in values:
            values["large"] = [[*value, f"{value[2]:04d}" * 4096] for value in values["large"]]
        summed = values[_SUMMED[dag_id]]
        values[TOTAL] = [len(summed), sum(value[3] for value in summed)]
        return values


def _worth(run_id: str, name: str, n: int) -> list[Any]:
    return [run_id, name, n, n * n + len(run_id)]
