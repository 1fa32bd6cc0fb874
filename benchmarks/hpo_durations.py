"""What the evaluations of a real hyperparameter search took: recorded once, kept beside this file, read by benchmarks.

The search is the one of ``dags/tth_hpo.py`` (its space, its optimiser, its training), run here one evaluation after
the other. Durations are CPU seconds of a training with one thread, so that other work on the machine does not show.
"""

from __future__ import annotations

import json
import platform
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

DAGS: Final = Path(__file__).parents[1] / "dags"
RECORDED: Final = Path(__file__).with_suffix(".json")
"""The recording that benchmarks use."""

HISTORIES: Final = (0, 200, 1_000, 10_000)
"""Numbers of known points with which the time of one more is recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A recorded search.

    :param what: what the seconds are.
    :param when: UTC time of the recording.
    :param where: machine and versions.
    :param events: training events of each evaluation.
    :param seed: seed of the events and of the search.
    :param rounds: rounds of the search.
    :param points: points of a round.
    :param ask_seconds: CPU seconds of asking the optimiser for one point, by the number of points it knows.
    :param seconds: CPU seconds of the evaluations, in the order of the search.
    """

    what: str
    when: str
    where: str
    events: int
    seed: int
    rounds: int
    points: int
    ask_seconds: dict[int, float]
    seconds: tuple[float, ...]

    def ask_time(self, known: int) -> float:
        """Return the seconds in which the optimiser gives one more point; between recorded sizes on a straight line.

        :param known: number of points that it knows.
        """
        sizes = sorted(self.ask_seconds)
        for low, high in pairwise(sizes):
            if known <= high:
                share = max(0.0, (known - low) / (high - low))
                return self.ask_seconds[low] * (1 - share) + self.ask_seconds[high] * share
        return self.ask_seconds[sizes[-1]] * known / sizes[-1]

    def scaled(self, median: float) -> list[float]:
        """Return the durations, all stretched by one factor.

        :param median: what their median is to be, in seconds.
        """
        factor = median / statistics.median(self.seconds)
        return [each * factor for each in self.seconds]


def drawn(durations: Sequence[float], count: int, seed: int) -> list[float]:
    """Return ``count`` durations in random order: all of them before one comes a second time.

    :param seed: the same seed gives the same durations.
    """
    dice = random.Random(seed)
    many: list[float] = []
    while len(many) < count:
        many += dice.sample(durations, len(durations))
    return many[:count]


def read(file: Path) -> Recording:
    """Return the recording in a file."""
    told: dict[str, Any] = json.loads(file.read_text())
    asks = {int(known): seconds for known, seconds in told.pop("ask_seconds").items()}
    return Recording(**{**told, "seconds": tuple(told["seconds"]), "ask_seconds": asks})


def write(recording: Recording, file: Path) -> None:
    """Keep a recording in a file."""
    file.write_text(json.dumps(asdict(recording), indent=1) + "\n")


def record(*, events: int, seed: int, rounds: int, points: int) -> Recording:
    """Run a search here, and return what its evaluations took; two minutes for 200 of 8000 events.

    :param events: training events.
    :param seed: seed of the events and of the search.
    """
    sys.path.insert(0, str(DAGS))
    from tth_search import suggest_points, tell_outcomes
    from tth_toy import train_and_score

    train_and_score(suggest_points([], 1, seed)[0], events=400, seed=seed)  # imports and warms up
    history: list[Any] = []
    seconds: list[float] = []
    for number in range(1, rounds + 1):
        batch, outcomes = suggest_points(history, points, seed), []
        for point in batch:
            began = time.process_time()
            outcomes.append(train_and_score(point, events=events, seed=seed))
            seconds.append(round(time.process_time() - began, 3))
        history = tell_outcomes(history, batch, outcomes, number)
        print(f"round {number}: {sum(seconds):.0f} CPU seconds", file=sys.stderr)
    libraries = " ".join(f"{name} {version(name)}" for name in ("numpy", "optuna", "xgboost-cpu"))
    return Recording(
        what="CPU seconds of dags/tth_toy.train_and_score, one thread, at the points of a search by dags/tth_search",
        when=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        where=f"{platform.machine()} {platform.system()}, Python {platform.python_version()}, {libraries}",
        events=events, seed=seed, rounds=rounds, points=points,
        ask_seconds={known: ask_seconds(history, known, seed) for known in HISTORIES},
        seconds=tuple(seconds),
    )  # fmt: skip


def ask_seconds(history: Sequence[Any], known: int, seed: int, *, asks: int = 5) -> float:
    """Return the CPU seconds in which the optimiser that knows ``known`` points gives one more.

    :param history: points to know, repeated where they do not suffice.
    """
    from tth_search import build_study, distributions

    study = build_study((list(history) * (known // len(history) + 1))[:known], seed)
    space, spent = distributions(), []
    for _ in range(asks):
        began = time.process_time()
        study.ask(space)
        spent.append(time.process_time() - began)
    return round(statistics.median(spent), 4)
