"""The command prun of panda-client 2.2 against the embedded grid.

Its jobs need PanDA's transform runGen, which this package does not have: without it they fail with a text that says
so; with it in the grid's directory of transforms they run. The stand-in here does what runGen is said to do
(facts/panda.md section 8): fetch the sandbox, unpack it, run the command.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.local.conftest import RunningGrid

from .commands import command, environment

RUN_GEN = "runGen-00-00-02"
STAND_IN = f"""#!{sys.executable}
import getopt, io, subprocess, sys, tarfile, urllib.parse, urllib.request
options = dict(getopt.getopt(sys.argv[1:], "j:r:a:p:l:o:i:", ["sourceURL="])[0])
sandbox = urllib.request.urlopen(options["--sourceURL"] + "/cache/" + options["-a"]).read()
tarfile.open(fileobj=io.BytesIO(sandbox)).extractall(filter="data")
sys.exit(subprocess.call(urllib.parse.unquote(options["-p"]), shell=True))
"""


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGrid]:
    running = RunningGrid(tmp_path_factory.mktemp("prun") / "data", "--slots", "2", "--user", "Test User")
    yield running
    assert running.stop() == 0


def prun(grid: RunningGrid, folder: Path, *options: str) -> int:
    """Submit with prun from a folder, and return the task's id."""
    (folder / "input.txt").write_text("from the sandbox\n")
    done = command(environment(grid), folder, "prun", "--noBuild", "--vo", "wlcg", *options)
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    assert "succeeded. new jediTaskID=" in text, text
    return int(text.split("new jediTaskID=")[1].split()[0])


def test_without_the_transform_the_refusal_says_so(grid: RunningGrid, tmp_path: Path) -> None:
    task_id = prun(grid, tmp_path, "--exec", "cat input.txt", "--outDS", "user.testuser.refused", "--maxAttempt", "1")
    assert grid.wait(task_id, "failed", "done", "broken", "finished") == "failed"
    job = grid.jobs(task_id)[0]
    assert job["pilotErrorCode"] == 1132
    assert job["pilotErrorDiag"].startswith("Failed to download transform: https://pandaserver-doma.cern.ch/trf/user/")
    assert f"(no executable {RUN_GEN} in {grid.data / 'trf'})" in job["pilotErrorDiag"]


def test_with_the_transform_its_jobs_run(grid: RunningGrid, tmp_path: Path) -> None:
    transform = grid.data / "trf" / RUN_GEN
    transform.write_text(STAND_IN)
    transform.chmod(0o755)
    marks = tmp_path / "marks"
    marks.mkdir()
    folder = tmp_path / "work"
    folder.mkdir()
    task_id = prun(
        grid, folder, "--exec", f"cp input.txt {marks}/%RNDM:10", "--outDS", "user.testuser.run", "--nJobs", "2"
    )
    assert grid.wait(task_id, "failed", "done", "broken", "finished") == "done"
    assert sorted(p.name for p in marks.iterdir()) == ["10", "11"]
    assert (marks / "10").read_text() == "from the sandbox\n"
    info = grid.get("task/get_detailed_info", task_id=task_id)["data"]
    assert (info["taskName"], info["nFilesFinished"]) == ("user.testuser.run/", 2)
