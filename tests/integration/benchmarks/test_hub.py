"""The hub's benchmark runs, very small, and what it prints hangs together; nothing of it is left when it is ended."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from demo.processes import environment
from tests.stack import activemq

ROOT = Path(__file__).parents[3]
GUARD = 300.0
SMALL = ["--keys", "100", "--messages", "300", "--rounds", "1", "--no-idds"]

pytestmark = pytest.mark.skipif(activemq.missing() is not None, reason=str(activemq.missing()))


def test_a_small_run_measures_everything() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/hub.py"), *SMALL],
        env=environment(), capture_output=True, text=True, check=False, timeout=GUARD,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]

    *lines, last = done.stdout.splitlines()
    told = json.loads(last)
    assert (told["keys"], told["compared_keys"], told["messages"], told["rounds"]) == ([100], 100, 300, 1)
    assert told["connections"] == 1
    assert 1 <= told["threads"] <= 4
    assert set(told["rates"]) == {"socket", "stomp", "hub_100"}
    assert told["rate_vs_bare"] == pytest.approx(told["rates"]["hub_100"] / told["rates"]["stomp"], rel=0.01)
    assert told["rate_50000_vs_100"] == 1.0
    assert 0 < told["p50_ms"] <= told["p99_ms"]
    assert 200 < told["bytes_per_key"] < 20_000
    assert "idds_threads" not in told
    assert any(line.startswith("hub, 100 waiting") for line in lines)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_run_that_is_ended(ending: signal.Signals, tmp_path: Path) -> None:
    running = subprocess.Popen(
        [sys.executable, str(ROOT / "benchmarks/hub.py"), *SMALL[:2], "--messages", "3000", "--rounds", "100000"],
        env=environment(TMPDIR=str(tmp_path)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stderr is not None
    assert running.stderr.readline().startswith("round 1")
    family = psutil.Process(running.pid).children(recursive=True)
    assert len(family) >= 5, "the guard, the broker and three receivers"

    running.send_signal(ending)
    running.communicate(timeout=GUARD)

    _, alive = psutil.wait_procs(family, timeout=GUARD)
    assert not alive
    assert not list(tmp_path.glob("activemq-*"))
