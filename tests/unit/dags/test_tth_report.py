"""The end of a study: summary, table, plot."""

from __future__ import annotations

from pathlib import Path

import pytest
from tth_report import draw_plot, format_table, summarize
from tth_search import DEFAULTS, Trial

DEFAULT = {"auc": 0.88, "auc_test": 0.87}


def trial(number: int, auc: float | None) -> Trial:
    return Trial(round=number, point=dict(DEFAULTS), auc=auc, auc_test=None if auc is None else auc - 0.01)


HISTORY = [trial(1, 0.5), trial(1, 0.89), trial(1, None), trial(2, 0.895), trial(2, 0.893)]


def test_summary_names_the_best_and_what_it_is_compared_with():
    summary = summarize(HISTORY, DEFAULT)
    assert summary == {
        "best_auc": 0.895,
        "best_auc_test": pytest.approx(0.885),
        "default_auc": 0.88,
        "default_auc_test": 0.87,
        "first_round_best": 0.89,
        "best_round": 2,
        "best_parameters": DEFAULTS,
        "evaluations": 5,
        "failed": 1,
        "rounds": 2,
    }


@pytest.mark.parametrize("history", [[], [trial(1, None)]])
def test_a_study_without_values_has_no_summary(history):
    with pytest.raises(ValueError, match="succeeded"):
        summarize(history, DEFAULT)


def test_first_round_may_have_failed_altogether():
    assert summarize([trial(1, None), trial(2, 0.8)], DEFAULT)["first_round_best"] is None


def test_table_has_the_best_first_and_the_default_last():
    lines = format_table(HISTORY, DEFAULT, rows=2).splitlines()
    assert len(lines) == 2 + 2 + 1
    assert len({len(line) for line in lines}) == 1
    assert "0.89500" in lines[2]
    assert "0.89300" in lines[3]
    assert lines[-1].split("|")[1].strip() == "default"
    assert "0.88000" in lines[-1]
    assert all(name in lines[0] for name in DEFAULTS)


@pytest.mark.parametrize("history", [HISTORY, HISTORY[:1], [trial(1, 0.9)] * 3])
def test_plot_is_a_png_that_shows_something(history, tmp_path: Path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "new folder" / "best.png"
    draw_plot(history, 0.88, path)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    from matplotlib.image import imread

    pixels = imread(path)
    assert pixels.shape[:2] == (600, 960)
    assert pixels[..., :3].std() > 0.05


def test_nothing_to_draw_is_said(tmp_path: Path):
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="no evaluation"):
        draw_plot([trial(1, None)], 0.88, tmp_path / "x.png")
