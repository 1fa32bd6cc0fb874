"""The search: points within the ranges, batches that stay apart, a history that is plain data."""

from __future__ import annotations

import json
import statistics
from itertools import pairwise

import pytest

pytest.importorskip("optuna")
import tth_search
from tth_search import DEFAULTS, FLOATS, INTEGERS, Trial, distance_to, ranked, suggest_points, tell_outcomes


def value(point: dict[str, float]) -> float:
    """A smooth stand-in for the AUC, best inside the ranges."""
    ranges = {**FLOATS, **INTEGERS}
    return 1.0 - sum(((point[n] - low) / (high - low) - 0.6) ** 2 for n, (low, high) in ranges.items())


def outcomes(points):
    return [{"auc": value(p), "auc_test": value(p) - 0.01, "trees": 10, "seconds": 1.0} for p in points]


def study(rounds: int, count: int, seed: int) -> list[Trial]:
    history: list[Trial] = []
    for number in range(1, rounds + 1):
        points = suggest_points(history, count, seed)
        history = tell_outcomes(history, points, outcomes(points), number)
    return history


@pytest.fixture(scope="module")
def history() -> list[Trial]:
    return study(rounds=3, count=8, seed=1)


def test_the_space_is_the_ten_parameters_of_the_reference():
    assert {**FLOATS, **INTEGERS} == {
        "colsample_bytree": (0.1, 1.0),
        "scale_pos_weight": (0.0, 10.0),
        "max_delta_step": (0.0, 10.0),
        "seed": (1, 50),
        "min_child_weight": (0.0, 100.0),
        "subsample": (0.1, 1.0),
        "eta": (0.0, 0.1),
        "alpha": (0.0, 1.0),
        "max_depth": (0, 50),
        "gamma": (0.0, 1.0),
    }
    assert set(DEFAULTS) == {**FLOATS, **INTEGERS}.keys()


def test_every_point_lies_within_the_ranges(history):
    for trial in history:
        assert trial["point"].keys() == {**FLOATS, **INTEGERS}.keys()
        for name, (low, high) in {**FLOATS, **INTEGERS}.items():
            assert low <= trial["point"][name] <= high
        assert all(isinstance(trial["point"][name], int) for name in INTEGERS)


def test_history_is_plain_data(history):
    assert json.loads(json.dumps(history)) == history


def test_same_history_and_seed_same_points(history):
    copy = json.loads(json.dumps(history))
    assert suggest_points(history, 5, seed=1) == suggest_points(copy, 5, seed=1)
    assert suggest_points(history, 5, seed=1) != suggest_points(history, 5, seed=2)
    assert suggest_points([], 5, seed=1) == suggest_points([], 5, seed=1)


def test_no_point_comes_twice(history):
    points = [tuple(trial["point"].values()) for trial in history]
    assert len(set(points)) == len(points)


def test_a_batch_knows_its_pending_points(history):
    """Asked without them, the same study gives one and the same point again and again: the flaw of the reference."""
    blind = [suggest_points(history, 1, seed=1)[0] for _ in range(6)]
    assert all(one == next_one for one, next_one in pairwise(blind))
    batch = suggest_points(history, 6, seed=1)
    assert batch[0] == blind[0]
    assert min(distance_to([*batch[:i], *batch[i + 1 :]], p) for i, p in enumerate(batch)) > 0.2


def test_candidates_far_from_the_batch_are_taken(history, monkeypatch):
    def spread(seed: int) -> float:
        batch = suggest_points(history, 8, seed)
        return statistics.mean(distance_to([*batch[:i], *batch[i + 1 :]], p) for i, p in enumerate(batch))

    apart = statistics.mean(spread(seed) for seed in range(8))
    monkeypatch.setattr(tth_search, "CANDIDATES", 1)
    assert apart > 1.1 * statistics.mean(spread(seed) for seed in range(8))


def test_later_rounds_do_better_than_chance():
    def mean_value(trials: list[Trial], number: int) -> float:
        return statistics.mean(t["auc"] for t in trials if t["round"] == number)

    studies = [study(rounds=3, count=8, seed=seed) for seed in range(3)]
    for trials in studies:
        assert mean_value(trials, 3) > mean_value(trials, 1)


def test_tell_keeps_rounds_and_marks_failed_jobs():
    points = suggest_points([], 3, seed=1)
    first = tell_outcomes([], points, [{"auc": 0.8, "auc_test": 0.7}, "no mapping: a JobFailure", None], 1)
    assert [t["auc"] for t in first] == [0.8, None, None]
    assert [t["round"] for t in first] == [1, 1, 1]
    assert len(ranked(first)) == 1
    assert len(suggest_points(first, 4, seed=1)) == 4


def test_a_skipped_round_changes_nothing(history):
    assert tell_outcomes(history, [], [], 4) == history


def test_lost_outcomes_are_noticed():
    with pytest.raises(ValueError, match="2 points, but 1 outcomes"):
        tell_outcomes([], suggest_points([], 2, seed=1), [{"auc": 0.8, "auc_test": 0.8}], 1)
