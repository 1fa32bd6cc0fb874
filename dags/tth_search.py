"""The search of the ttH study: its ten parameters, the next points to try, and what is known of those tried.

Everything that is known travels between rounds as plain data, a list of ``Trial`` in XCom, and each round builds
its Optuna study from that list: nothing has to outlive a task, and the same seed gives the same points again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    import optuna

FLOATS: dict[str, tuple[float, float]] = {
    "colsample_bytree": (0.1, 1.0),
    "scale_pos_weight": (0.0, 10.0),
    "max_delta_step": (0.0, 10.0),
    "min_child_weight": (0.0, 100.0),
    "subsample": (0.1, 1.0),
    "eta": (0.0, 0.1),
    "alpha": (0.0, 1.0),
    "gamma": (0.0, 1.0),
}
INTEGERS: dict[str, tuple[int, int]] = {"seed": (1, 50), "max_depth": (0, 50)}
"""Ranges of the iDDS study of ttH(γγ), which this one follows; both ends belong to them."""

DEFAULTS: dict[str, float] = {
    "colsample_bytree": 1.0,
    "scale_pos_weight": 1.0,
    "max_delta_step": 0.0,
    "min_child_weight": 1.0,
    "subsample": 1.0,
    "eta": 0.3,
    "alpha": 0.0,
    "gamma": 0.0,
    "seed": 0,
    "max_depth": 6,
}
"""What XGBoost takes when nothing is set: the point to beat."""


CANDIDATES = 4
"""Candidates for each point of a batch, of which one is taken."""


class Trial(TypedDict):
    """One point, the round that asked for it, and its AUC; ``auc`` is None where the job failed."""

    round: int
    point: dict[str, float]
    auc: float | None
    auc_test: float | None


def suggest_points(history: Sequence[Trial], count: int, seed: int) -> list[dict[str, float]]:
    """Return the next ``count`` points to try together: at random in the first round, by TPE afterwards.

    The points of a batch know of each other, in two ways. One that was asked for stays pending in the study, and the
    sampler takes pending points for bad ones (``constant_liar``). That alone moves little in ten dimensions (numbers
    in docs/tth-hpo.md), so of several candidates the one farthest from the batch's other points is taken.

    :param history: what is known; empty in the first round.
    :param seed: the same history and seed give the same points.
    """
    from optuna.trial import TrialState

    study = build_study(history, seed)
    space = distributions()
    batch: list[dict[str, float]] = []
    for _ in range(count):
        candidates = [study.ask(space) for _ in range(CANDIDATES if history and batch else 1)]
        taken = max(candidates, key=lambda candidate: distance_to(batch, candidate.params))
        for candidate in candidates:
            if candidate is not taken:
                study.tell(candidate, state=TrialState.FAIL)
        batch.append(taken.params)
    return batch


def distance_to(batch: Sequence[Mapping[str, float]], point: Mapping[str, float]) -> float:
    """Return the distance from a point to the nearest of a batch, each range counted as 1; infinite if it is empty."""
    ranges = {**FLOATS, **INTEGERS}
    return min(
        (
            math.sqrt(sum(((point[name] - other[name]) / (high - low)) ** 2 for name, (low, high) in ranges.items()))
            for other in batch
        ),
        default=math.inf,
    )


def build_study(history: Sequence[Trial], seed: int) -> optuna.Study:
    """Return an Optuna study that knows ``history``."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # A stream of its own for each round, or the random draws of the first would come again.
    sampler = optuna.samplers.TPESampler(
        seed=seed * 100_003 + len(history), n_startup_trials=1, multivariate=True, constant_liar=True
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for trial in history:
        failed = trial["auc"] is None
        study.add_trial(
            optuna.trial.create_trial(
                params=trial["point"],
                distributions=distributions(),
                value=trial["auc"],
                state=optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE,
            )
        )
    return study


def distributions() -> dict[str, optuna.distributions.BaseDistribution]:
    """Return the search space in Optuna's terms."""
    from optuna.distributions import FloatDistribution, IntDistribution

    return {
        **{name: FloatDistribution(low, high) for name, (low, high) in FLOATS.items()},
        **{name: IntDistribution(low, high) for name, (low, high) in INTEGERS.items()},
    }


def tell_outcomes(
    history: Sequence[Trial], points: Sequence[dict[str, float]], outcomes: Sequence[Any], number: int
) -> list[Trial]:
    """Return the history with the outcomes of round ``number`` added.

    :param outcomes: what ``evaluate`` returned for each of ``points``; anything but a mapping is a failed job.
    :raises ValueError: points and outcomes differ in number.
    """
    if len(points) != len(outcomes):
        raise ValueError(f"round {number}: {len(points)} points, but {len(outcomes)} outcomes")
    return [*history, *(trial_of(number, point, outcomes[i]) for i, point in enumerate(points))]


def trial_of(number: int, point: dict[str, float], outcome: Any) -> Trial:
    """Return what one job's outcome says of its point."""
    known = outcome if isinstance(outcome, Mapping) else {}
    return Trial(round=number, point=point, auc=known.get("auc"), auc_test=known.get("auc_test"))


def ranked(history: Sequence[Trial]) -> list[Trial]:
    """Return the trials that have a value, best first."""
    return sorted((t for t in history if t["auc"] is not None), key=lambda t: t["auc"] or 0.0, reverse=True)
