"""The toy Monte Carlo is what its page says, and the AUC is the AUC."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

np = pytest.importorskip("numpy")
import tth_toy  # noqa: E402


@pytest.fixture(scope="module")
def events() -> tth_toy.Events:
    return tth_toy.generate(8000, seed=3)


def column(events: tth_toy.Events, name: str):
    return events.inputs[:, tth_toy.INPUTS.index(name)]


def test_sample_has_the_size_and_the_mixture_asked_for(events):
    assert events.inputs.shape == (8000, len(tth_toy.INPUTS))
    assert np.isfinite(events.inputs).all()
    shares = np.bincount(events.process, minlength=4) / 8000
    assert shares == pytest.approx(tth_toy.FRACTIONS, abs=1e-3)
    assert events.signal.sum() == (events.process == 0).sum()


def test_events_are_shuffled(events):
    assert events.signal[:4000].mean() == pytest.approx(events.signal[4000:].mean(), abs=0.03)


def test_every_event_passes_the_selection(events):
    assert (column(events, "pt1_over_m") > 0.35).all()
    assert (column(events, "pt2_over_m") > 0.25).all()
    for photon in ("eta_y1", "eta_y2"):
        eta = np.abs(column(events, photon))
        assert (eta < 2.37).all()
        assert not ((eta > 1.37) & (eta < 1.52)).any()
    assert column(events, "n_jets").min() >= 3
    assert column(events, "n_btags").min() >= 1
    assert column(events, "pt_jet3").min() > 25
    assert events.mass.min() > 105
    assert events.mass.max() < 160


@pytest.mark.parametrize("process", [0, 3])
def test_higgs_bosons_peak_at_125(events, process):
    mass = events.mass[events.process == process]
    assert np.median(mass) == pytest.approx(125.0, abs=0.3)
    assert np.std(mass) < 2.5


@pytest.mark.parametrize("process", [1, 2])
def test_continuum_falls_without_a_peak(events, process):
    mass = events.mass[events.process == process]
    counts, _ = np.histogram(mass, bins=[105, 116, 127, 138, 149, 160])
    assert (np.diff(counts) < 0).all()


def test_classes_differ_as_the_physics_says(events):
    tops, jets = np.isin(events.process, (0, 2)), events.process == 1
    assert column(events, "n_jets")[tops].mean() > column(events, "n_jets")[jets].mean() + 0.5
    assert column(events, "n_btags")[tops].mean() > column(events, "n_btags")[jets].mean() + 0.15
    near_top = np.abs(column(events, "m_top") - tth_toy.M_TOP) < 20
    assert near_top[tops].mean() > 1.5 * near_top[jets].mean()
    signal = events.signal == 1
    assert column(events, "pt_yy_over_m")[signal].mean() > column(events, "pt_yy_over_m")[~signal].mean()
    assert tth_toy.auc(events.signal, column(events, "n_btags")) > 0.55
    assert tth_toy.auc(events.signal, column(events, "n_central_jets")) > 0.7


def test_no_input_alone_gives_the_signal_away(events):
    for name in tth_toy.INPUTS:
        value = tth_toy.auc(events.signal, column(events, name))
        assert max(value, 1 - value) < 0.85, name


def test_energy_and_momentum_are_conserved_in_a_decay():
    rng = np.random.default_rng(0)
    parent = tth_toy.four_vector(rng.uniform(0, 300, 500), rng.normal(0, 1, 500), rng.uniform(-3, 3, 500), 172.5)
    b, w = tth_toy.decay(parent, 4.8, 80.4, *tth_toy.isotropic(rng, 500))
    assert tth_toy.mass_of(b) == pytest.approx(4.8, abs=1e-2)
    assert tth_toy.mass_of(w) == pytest.approx(80.4, abs=1e-2)
    assert tth_toy.mass_of(b + w) == pytest.approx(172.5, abs=1e-2)


def test_same_seed_same_events_other_sample_other_events():
    one, again = tth_toy.generate(500, seed=9), tth_toy.generate(500, seed=9)
    assert np.array_equal(one.inputs, again.inputs)
    assert np.array_equal(one.process, again.process)
    for other in (tth_toy.generate(500, seed=9, sample=1), tth_toy.generate(500, seed=10)):
        assert not np.array_equal(one.mass, other.mass)


@pytest.mark.parametrize(
    ("labels", "scores", "expected"),
    [
        ([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], 0.75),
        ([0, 1], [0.0, 1.0], 1.0),
        ([0, 1], [1.0, 0.0], 0.0),
        ([0, 1, 0, 1], [0.5, 0.5, 0.5, 0.5], 0.5),
        ([0, 1, 1], [0.5, 0.5, 0.9], 0.75),
    ],
)
def test_auc_of_known_cases(labels, scores, expected):
    assert tth_toy.auc(np.array(labels), np.array(scores)) == pytest.approx(expected)


def test_auc_agrees_with_its_definition():
    rng = np.random.default_rng(4)
    labels, scores = rng.integers(0, 2, 300), rng.integers(0, 20, 300)
    signal, background = scores[labels == 1][:, None], scores[labels == 0]
    assert tth_toy.auc(labels, scores) == pytest.approx(((signal > background) + 0.5 * (signal == background)).mean())


def test_auc_needs_both_classes():
    with pytest.raises(ValueError, match="signal and background"):
        tth_toy.auc(np.ones(3), np.arange(3))


def test_training_is_reproducible_and_beats_guessing():
    pytest.importorskip("xgboost")
    point = {"eta": 0.1, "max_depth": 4, "subsample": 0.7, "seed": 5}
    one, again = (tth_toy.train_and_score(point, events=1500, seed=2) for _ in range(2))
    assert {k: v for k, v in one.items() if k != "seconds"} == {k: v for k, v in again.items() if k != "seconds"}
    assert 0.8 < one["auc"] < 0.95
    assert one["auc_test"] == pytest.approx(one["auc"], abs=0.05)
    assert 1 <= one["trees"] <= tth_toy.ROUNDS


def test_a_point_that_cannot_learn_is_worth_a_half():
    pytest.importorskip("xgboost")
    assert tth_toy.train_and_score({"eta": 0.0}, events=400, seed=2)["auc"] == 0.5


@pytest.mark.parametrize("module", ["tth_search", "tth_report"])
def test_modules_of_the_dag_file_import_nothing_heavy(module):
    program = (
        f"import sys; sys.path.insert(0, {str(Path(tth_toy.__file__).parent)!r}); import {module}; "
        "print([m for m in ('numpy', 'xgboost', 'optuna', 'matplotlib', 'pandas') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
