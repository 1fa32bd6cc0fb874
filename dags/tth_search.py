"""The search of the ttH study: its ten parameters, the next points to try, and what is known of those tried.

Everything that is known travels between rounds as plain data, a list of ``Trial`` in XCom, and each round builds
its Optuna study from that list: nothing has to outlive a task, and the same seed gives the same points again.
"""

from __future__ import annotations

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


class Trial(TypedDict):
    """One point, the round that asked for it, and its AUC; ``auc`` is None where the job failed."""

    round: int
    point: dict[str, float]
    auc: float | None
    auc_test: float | None


def suggest_points(history: Sequence[Trial], count: int, seed: int) -> list[dict[str, float]]:
    """Return the next ``count`` points to try together: at random in the first round, by TPE afterwards.

    A point that was asked for stays pending in the study until its value is told, and the sampler takes pending
    points for bad ones (``constant_liar``). So every further point of the batch keeps away from those before it,
    and a batch does not collapse into the one corner that looked best last.

    :param history: what is known; empty in the first round.
    :param seed: the same history and seed give the same points.
    """
    study = build_study(history, seed)
    return [study.ask(distributions()).params for _ in range(count)]


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
