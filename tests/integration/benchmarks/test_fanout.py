"""The fan-out benchmark runs from end to end with a few jobs, and leaves nothing behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from demo.processes import environment
from tests.stack import activemq

PROGRAM = str(Path(__file__).parents[3] / "benchmarks/fanout.py")
GUARD = 400.0


@pytest.fixture(autouse=True)
def _activemq_is_here() -> None:
    if reason := activemq.missing():
        pytest.skip(reason)


def test_a_few_jobs_give_every_figure(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, PROGRAM, "--jobs", "10", "300", "--rounds", "1", "--no-expand"],
        env=environment(TMPDIR=str(tmp_path)), capture_output=True, text=True, check=False, timeout=GUARD,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]

    *lines, last = done.stdout.splitlines()
    told = json.loads(last)
    assert told["jobs"] == [10, 300]
    assert told["submit_10_s"] > 0
    assert told["submit_300_s"] > 0
    assert told["archive_bytes_per_job"] <= 200
    assert 0 < told["event_bytes"] <= 65536
    assert told["event_bytes"] == max(told["event_bytes_by_case"].values())
    assert set(told["gather_us_per_result"]) == {"10", "300"}
    assert told["gather_ratio"] > 0
    assert told["trigger_bytes_per_job"] > 0
    assert told["xcom_bytes"]["failed 300"] > told["event_bytes_by_case"]["returned 300"]
    assert not {"map_over_100_s", "submit_10000_s"} & set(told), "what was not measured is not told"
    assert any(line.startswith("SENDING OFF") for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    program = subprocess.Popen(
        [sys.executable, PROGRAM, "--jobs", "10", "300", "--no-expand"],
        env=environment(TMPDIR=str(tmp_path)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        end = time.monotonic() + 60
        while not list(tmp_path.glob("fanout-*/activemq-*/conf/*")):
            assert time.monotonic() < end
            assert program.poll() is None
            time.sleep(0.1)
        family = psutil.Process(program.pid).children(recursive=True)
        assert family
        program.send_signal(signal.SIGINT)
        assert program.wait(60) != 0
        _, alive = psutil.wait_procs(family, timeout=20)
        assert alive == []
        assert list(tmp_path.iterdir()) == []
    finally:
        program.kill()
        program.wait()
