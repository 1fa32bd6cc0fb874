"""The rules of the Airflow benchmark: whose CPU time counts, and what is compared."""

from __future__ import annotations

import subprocess
import sys

import psutil

from benchmarks.airflow import Run, figures, rows, spent

BURN = "import time\nend = time.process_time() + 1.0\nwhile time.process_time() < end: pass\n"


def run(wall: float, workers: float) -> Run:
    return Run(wall=wall, cpu={"workers": workers, "triggerer": 0.1})


RUNS = {"bare": [run(10.0, 2.0), run(12.0, 2.0), run(50.0, 2.0)], "ours": [run(18.0, 3.0), run(1.0, 3.0)]}


def test_the_ratios_are_of_medians_ours_to_bare() -> None:
    told = figures(RUNS)
    assert told["wall_s"] == {"bare": 12.0, "ours": 9.5}
    assert (told["wall_ratio"], told["cpu_ratio"]) == (0.792, 1.5)


def test_a_ratio_of_next_to_nothing_is_not_shown() -> None:
    shown = {row[0]: row[-1] for row in rows(RUNS)}
    assert shown == {"DAG run, wall": "0.79", "CPU of the workers": "1.50", "CPU of the triggerer": ""}


def test_time_of_children_counts_while_they_live_and_when_they_are_reaped() -> None:
    """A worker's tasks have ended when the time is read; a worker itself may have as well."""
    task = f"subprocess.run([sys.executable, '-c', {BURN!r}], check=True)"
    worker = f"import subprocess, sys; {task}; print('done', flush=True); input()"
    scheduler = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {worker!r}], check=True)"
    # A process of its own: that of the tests has other children, which go on.
    script = f"{scheduler}; print('reaped', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        living = spent(psutil.Process(process.pid), own=False)
        assert 1.0 <= living < 2.0, "the time of a child's reaped child counts, once"
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "reaped\n"
        reaped = spent(psutil.Process(process.pid), own=False)
        process.stdin.write("\n")
    assert living <= reaped < living + 0.3, "nothing is lost at the end, and the burnt time is not counted twice"
