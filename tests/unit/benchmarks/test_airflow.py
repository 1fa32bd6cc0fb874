"""The rules of the Airflow benchmark: whose CPU time counts, and what is compared."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest

from benchmarks.airflow import Run, figures, rows, spent

BURN = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"


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
    grandchild = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN!r}], check=True)"
    own = psutil.Process(os.getpid())
    before = spent(own, own=False)
    with subprocess.Popen([sys.executable, "-c", f"{grandchild}\ninput()"], stdin=subprocess.PIPE) as child:
        end = time.monotonic() + 30
        while spent(own, own=False) - before < 0.3:
            assert time.monotonic() < end, "the time of a child's reaped child does not count"
            time.sleep(0.1)
        assert child.stdin is not None
        child.stdin.write(b"\n")
        child.stdin.close()
        child.wait()
    after = spent(own, own=False) - before
    assert 0.3 <= after < 2.0
    assert spent(own, own=False) - before == pytest.approx(after), "nothing is counted twice or lost at the end"
