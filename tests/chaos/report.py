"""What a run prints at its end: a table for people, and one JSON line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.chaos.verify import Verdict
from tests.chaos.watch import Death


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run came to.

    :param seed: of its plan.
    :param minutes: from the first DAG run to the last one's end.
    :param verdict: on its tasks.
    :param faults: how many happened, by kind.
    :param missed: how many found no process to hit, by kind.
    :param deaths: processes that ended otherwise.
    :param errors: what the suite itself could not do.
    :param unfinished: DAG runs that had not ended when the time was up.
    :param reaped: PanDA tasks that ``airflow panda reap`` ended; None: it was not asked to.
    """

    seed: int
    minutes: float
    verdict: Verdict
    faults: Mapping[str, int]
    missed: Mapping[str, int]
    deaths: Sequence[Death]
    errors: Sequence[str]
    unfinished: Sequence[str]
    reaped: int | None = None

    def complaints(self) -> list[str]:
        """Return everything that must not be."""
        verdict = self.verdict
        return [
            *(f"lost: {each}" for each in verdict.lost),
            *(f"doubled: {each}" for each in verdict.doubled),
            *(f"orphaned: {each}" for each in verdict.orphaned),
            *(f"not over: {each}" for each in self.unfinished),
            *(f"died: {death.part} after {death.at} s:\n{death.tail}" for death in self.deaths),
            *(f"the suite: {each}" for each in self.errors),
        ]

    def as_json(self) -> dict[str, Any]:
        """Return the counts."""
        verdict = self.verdict
        return {
            "seed": self.seed,
            "minutes": self.minutes,
            "faults": dict(sorted(self.faults.items())),
            "tasks": verdict.tasks,
            "jobs": verdict.jobs,
            "lost": len(verdict.lost),
            "doubled": len(verdict.doubled),
            "orphaned": len(verdict.orphaned),
            "recovered": verdict.recovered,
            "retries": verdict.retries,
            "outlived": len(verdict.outlived),
            "in_vain": len(verdict.in_vain),
            "reaped": self.reaped,
            "died": len(self.deaths),
            "unfinished": len(self.unfinished),
            "missed_faults": sum(self.missed.values()),
        }

    def text(self) -> str:
        """Return the whole, the JSON line last."""
        verdict = self.verdict
        rows = [
            *((f"  {kind}", n) for kind, n in sorted(self.faults.items())),
            ("faults", sum(self.faults.values())),
            ("faults that found nothing to hit", sum(self.missed.values())),
            ("grid tasks", verdict.tasks),
            ("jobs", verdict.jobs),
            ("tasks that recovered", verdict.recovered),
            ("further tries", verdict.retries),
            ("PanDA tasks that ran in vain", len(verdict.in_vain)),
            ("PanDA tasks that lived on beside a later one", len(verdict.outlived)),
            ("lost", len(verdict.lost)),
            ("doubled", len(verdict.doubled)),
            ("orphaned", len(verdict.orphaned)),
            ("processes that died otherwise", len(self.deaths)),
        ]
        width = max(len(name) for name, _ in rows)
        lines = [f"seed {self.seed}, {self.minutes} minutes", *(f"{name:<{width}} {n:>6}" for name, n in rows)]
        lines += [f"in vain: {each}" for each in verdict.in_vain] + [f"outlived: {each}" for each in verdict.outlived]
        return "\n".join([*lines, *self.complaints(), json.dumps(self.as_json())])
