"""What a ttH study ends with: the summary, a table of the best points, and the plot of the AUC against evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tth_search import FLOATS, INTEGERS, Trial, ranked


def summarize(history: Sequence[Trial], default: Mapping[str, Any]) -> dict[str, Any]:
    """Return the study's outcome.

    ``best_auc`` is the best of many on one validation sample and so a little too good; ``best_auc_test`` is the same
    classifier on a sample that neither search nor early stopping has seen.

    :param history: all trials.
    :param default: outcome of XGBoost's default parameters.
    :raises ValueError: no evaluation succeeded.
    """
    done = ranked(history)
    if not done:
        raise ValueError(f"none of the {len(history)} evaluations succeeded; see the log of the evaluate tasks")
    first = [trial for trial in done if trial["round"] == 1]
    return {
        "best_auc": done[0]["auc"],
        "best_auc_test": done[0]["auc_test"],
        "default_auc": default["auc"],
        "default_auc_test": default["auc_test"],
        "first_round_best": first[0]["auc"] if first else None,
        "best_round": done[0]["round"],
        "best_parameters": done[0]["point"],
        "evaluations": len(history),
        "failed": len(history) - len(done),
        "rounds": len({trial["round"] for trial in history}),
    }


def format_table(history: Sequence[Trial], default: Mapping[str, Any], rows: int = 10) -> str:
    """Return the best points and, as the last row, the defaults, as a Markdown table that reads well in a log."""
    names = [*FLOATS, *INTEGERS]
    table = [["", "round", "AUC", "AUC (test)", *names]]
    for place, trial in enumerate(ranked(history)[:rows], start=1):
        values = (f"{trial['point'][name]:.4g}" for name in names)
        table.append([str(place), str(trial["round"]), f"{trial['auc']:.5f}", f"{trial['auc_test']:.5f}", *values])
    blank = ["" for _ in names]
    table.append(["default", "", f"{default['auc']:.5f}", f"{default['auc_test']:.5f}", *blank])
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = ["| " + " | ".join(row[i].rjust(widths[i]) for i in range(len(row))) + " |" for row in table]
    rule = "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def draw_plot(history: Sequence[Trial], default_auc: float, path: Path) -> None:
    """Write the AUC against evaluations as a PNG: points by round, the best so far, the default parameters.

    Points far below the rest (an eta or scale_pos_weight near 0 learns nothing) are drawn at the lower edge, as
    triangles, so that the differences that matter stay visible.

    :raises ValueError: no evaluation succeeded.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    done = [(i, t["round"], t["auc"]) for i, t in enumerate(history, start=1) if t["auc"] is not None]
    if not done:
        raise ValueError("there is no evaluation to draw")
    best: list[float] = []
    for _, _, auc in done:
        best.append(max(auc, best[-1]) if best else auc)
    top = max(best[-1], default_auc)
    middle = sorted(auc for _, _, auc in done)[len(done) // 2]
    spread = max(top - min(middle, default_auc), 1e-3)
    low, high = top - 3 * spread, top + 0.4 * spread

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number in sorted({r for _, r, _ in done}):
        colour = f"C{number - 1}"
        inside = [(i, auc) for i, r, auc in done if r == number and auc >= low]
        below = [i for i, r, auc in done if r == number and auc < low]
        kind = "random" if number == 1 else "TPE"
        axes.plot([i for i, _ in inside], [a for _, a in inside], "o", color=colour, label=f"round {number} ({kind})")
        axes.plot(below, [low + 0.03 * (high - low)] * len(below), "v", color=colour)
    axes.plot([], [], "v", color="grey", label="below the range shown")
    axes.step([i for i, _, _ in done], best, where="post", color="black", label=f"best so far ({best[-1]:.4f})")
    axes.axhline(default_auc, color="grey", linestyle="--", label=f"default parameters ({default_auc:.4f})")
    axes.set(
        xlabel="evaluations (grid jobs)",
        ylabel="validation AUC",
        title="ttH(γγ) against backgrounds (toy Monte Carlo), XGBoost",
        ylim=(low, high),
        xlim=(0, len(history) + 1),
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
