"""Hyperparameter optimisation of a ttH(γγ) analysis: every evaluation is a grid job, every round one PanDA task.

    suggest (here) → evaluate (on the grid, one job per point) → tell (here), round by round, then the report

The physics and the classifier are in ``tth_toy.py``, which travels to the worker nodes; the search is in
``tth_search.py``; table and plot are in ``tth_report.py``. See docs/tth-hpo.md.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import Param, dag, task, task_group

ROUNDS = 4
"""Most rounds of a run: the tasks that the DAG shows. Param ``rounds`` runs fewer; more need a larger number here."""
PYTHON = os.environ.get("TTH_PYTHON", "python3")
"""Interpreter of the worker nodes; it needs numpy and xgboost (pip install xgboost-cpu)."""
OUTPUT = str(Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser().parent / "tth-hpo")

PARAMS = {
    "rounds": Param(ROUNDS, type="integer", minimum=1, maximum=ROUNDS, description="rounds of the search"),
    "points": Param(8, type="integer", minimum=1, maximum=200, description="points, that is grid jobs, of a round"),
    "events": Param(8000, type="integer", minimum=400, description="training events; as many again validate and test"),
    "seed": Param(1, type="integer", minimum=0, description="seed of the events and of the search"),
    "output": Param(OUTPUT, type="string", description="folder of the plots"),
}


@task.panda(
    map_over="point",
    include=["tth_toy"],
    environment={"python": PYTHON},
    core_count=1,
    memory_mb=2000,
    walltime=timedelta(minutes=20),
    on_job_error="collect",  # a point whose job fails is a failed point; the study goes on
    min_success=0.5,
    multiple_outputs=False,
)
def evaluate(point: dict[str, float], events: int, seed: int) -> dict[str, float]:
    """Train the classifier with one point's parameters; runs on a worker node."""
    from tth_toy import train_and_score

    return train_and_score(point, events=events, seed=seed)


@task
def suggest(history: list[Any], number: int, params: dict[str, Any]) -> list[dict[str, float]]:
    """Return the points of a round, none if the run has fewer rounds."""
    from tth_search import suggest_points

    if number > params["rounds"]:
        return []
    return suggest_points(history, params["points"], params["seed"])


@task
def tell(history: list[Any], points: list[dict[str, float]], outcomes: list[Any], number: int) -> list[Any]:
    """Return the history with a round's outcomes added."""
    from tth_search import ranked, tell_outcomes

    history = tell_outcomes(history, points, outcomes, number)
    best = ranked(history)
    if points and best:
        print(f"round {number}: {len(history)} evaluations, best AUC so far {best[0]['auc']:.5f}")
    return history


@task(multiple_outputs=False)
def report(history: list[Any], default: list[Any], params: dict[str, Any], run_id: str) -> dict[str, Any]:
    """Print the table of the best points, draw the plot, return the summary."""
    from tth_report import draw_plot, format_table, summarize

    summary = summarize(history, default[0])
    folder = Path(params["output"]).expanduser() / re.sub(r"[^A-Za-z0-9.-]+", "_", run_id)
    plot = folder / "best-auc.png"
    draw_plot(history, summary["default_auc"], plot)
    print(f"best points of {summary['evaluations']} evaluations in {summary['rounds']} rounds\n")
    table = format_table(history, default[0])
    print(table)
    print(f"\nplot: {plot}")
    return {**summary, "plot": str(plot), "table": table}


@dag(params=PARAMS, render_template_as_native_obj=True, max_active_runs=1, tags=["panda", "hpo"], doc_md=__doc__)
def tth_hpo() -> None:
    """Search for the best classifier, in rounds."""
    from tth_search import DEFAULTS

    sample = {"events": "{{ params.events }}", "seed": "{{ params.seed }}"}
    default = evaluate.override(task_id="evaluate_default", on_job_error="fail", min_success=None)(
        point=[DEFAULTS], **sample
    )
    history: Any = []
    for number in range(1, ROUNDS + 1):

        @task_group(group_id=f"round_{number}")
        def one_round(known: Any, number: int) -> Any:
            points = suggest(known, number)
            return tell(known, points, evaluate(point=points, **sample), number)

        history = one_round(history, number)
    report(history, default)


tth_hpo()
