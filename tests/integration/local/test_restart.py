"""What the embedded grid does when it is stopped or killed, and when a lot is asked of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from .conftest import RunningGrid


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return path.read_text().strip()


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_killed_in_the_middle(start: Callable[..., RunningGrid], tmp_path: Path) -> None:
    """Running jobs become lost attempts and are tried again; queued tasks go on; leftovers are ended."""
    mark = tmp_path / "first"
    command = f"""if [ ${{ATTEMPTNR}} = 1 ]; then echo $$ > {mark}.t; mv {mark}.t {mark}; sleep 600; fi"""
    grid = start("--slots", "1")
    token = grid.token
    running = grid.submit(command=command, maxAttempt=3)
    grid.wait(running, "running")
    pid = int(wait_for(mark))
    queued = grid.submit(jobs=["j0", "j1"])
    grid.kill()
    assert lives(pid), "the payload outlives the killed grid"

    again = start("--slots", "2")
    assert not lives(pid)
    assert again.post("task/kill", task_id=987654)["message"] == "not the task owner or no production role"
    assert httpx.get(
        f"{again.url}/api/v1/task/get_status",
        params={"task_id": running},
        headers={**again.headers, "Authorization": f"Bearer {token}"},
    ).json()["success"], "a token of before the restart stays good"
    assert again.wait(running, "done", "failed") == "done"
    assert again.wait(queued, "done", "failed") == "done"
    first, second = again.jobs(running)
    assert (first["jobStatus"], first["jobDispatcherErrorCode"]) == ("failed", 100)
    assert first["jobDispatcherErrorDiag"].startswith("lost heartbeat")
    assert (second["jobStatus"], second["attemptNr"]) == ("finished", 2)


def test_stopped_in_good_order(start: Callable[..., RunningGrid], tmp_path: Path) -> None:
    """The payload is ended with its children, and the same attempt runs again after the restart."""
    mark = tmp_path / "first"
    command = f"""if [ ! -e {mark} ]; then sleep 600 & echo $! > {mark}.t; mv {mark}.t {mark}; wait; fi"""
    grid = start("--slots", "1")
    task_id = grid.submit(command=command)
    grid.wait(task_id, "running")
    child = int(wait_for(mark))
    assert grid.stop() == 0
    assert not lives(child)
    again = start("--slots", "1")
    assert again.wait(task_id, "done", "failed") == "done"
    (job,) = again.jobs(task_id)
    assert (job["attemptNr"], job["jobStatus"]) == (1, "finished")


def test_one_grid_per_directory(start: Callable[..., RunningGrid]) -> None:
    grid = start("--slots", "0")
    command = [sys.executable, "-m", "airflow_provider_panda.local", "--data", str(grid.data)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (second.returncode, second.stdout) == (1, "")
    assert "another embedded grid uses" in second.stderr


def test_files_with_secrets_are_private(grid: RunningGrid) -> None:
    for name in ("token", "broker.json", "keys.json"):
        assert (grid.data / name).stat().st_mode & 0o777 == 0o600


def test_two_hundred_jobs(grid: RunningGrid) -> None:
    task_id = grid.submit(command="true", jobs=[f"j{i}" for i in range(200)])
    assert grid.wait(task_id, "done", "finished", "failed", timeout=200) == "done"
    info = grid.get("task/get_detailed_info", task_id=task_id)["data"]
    assert (info["nFiles"], info["nFilesFinished"]) == (200, 200)
    assert len({f["lfn"] for j in grid.jobs(task_id) for f in j["Files"]}) == 400


def test_faults_of_the_grid_are_seeded_and_tried_again(start: Callable[..., RunningGrid]) -> None:
    def outcome(data: str) -> list[tuple[int, int, str]]:
        grid = start("--failure-rate", "0.5", "--seed", "7", "--slots", "1", "--retry-delay", "0", data=data)
        task_id = grid.submit(jobs=["j0", "j1", "j2", "j3"], maxAttempt=20)
        assert grid.wait(task_id, "done", "failed", "finished") == "done"
        return [(j["PandaID"], j["pilotErrorCode"], j["jobStatus"]) for j in grid.jobs(task_id)]

    one, two = outcome("one"), outcome("two")
    assert {s for _, _, s in one} == {"finished", "failed"}
    common = min(len(one), len(two))
    assert one[:common] == two[:common]


def test_unknown_transforms_and_own_ones(grid: RunningGrid) -> None:
    unknown = grid.submit(transPath="https://example.org/nosuch-trf")
    grid.wait(unknown, "failed")
    (job,) = grid.jobs(unknown)
    assert job["pilotErrorCode"] == 1132
    assert "nosuch-trf" in job["pilotErrorDiag"]
    transform = grid.data / "trf" / "my-trf"
    transform.write_text('#!/bin/sh\necho "got $1" > jobReport.json; exit "$2"\n')
    mine = grid.submit(transPath="https://example.org/x/my-trf", encJobParams=..., command="hello 0")
    assert grid.wait(mine, "done", "failed") == "done"
    assert grid.jobs(mine)[0]["metadata"] == "got hello\n"


@pytest.mark.skipif(
    bool(shutil.which("apptainer") or shutil.which("singularity")), reason="apptainer or singularity is installed here"
)
def test_container_without_a_runtime(grid: RunningGrid) -> None:
    task_id = grid.submit(container_name="docker://alpine")
    grid.wait(task_id, "failed")
    assert "needs apptainer or singularity" in grid.jobs(task_id)[0]["pilotErrorDiag"]


def test_environment_of_a_payload(grid: RunningGrid) -> None:
    task_id = grid.submit(command="env > $HOME/e; pwd >> $HOME/e; cat $HOME/e > jobReport.json; pwd")
    grid.wait(task_id, "done")
    (job,) = grid.jobs(task_id)
    lines = dict(line.partition("=")[::2] for line in job["metadata"].splitlines())
    assert lines["PANDAID"] == str(job["PandaID"])
    assert lines["PanDA_TaskID"] == str(task_id)
    assert lines["PILOT_SITENAME"] == "LOCAL"
    assert grid.token not in job["metadata"]
    assert not [name for name in lines if name.startswith(("AIRFLOW", "PYTHON", "VIRTUAL"))]


def test_pseudo_inputs(grid: RunningGrid) -> None:
    """noInput with only nFiles gives one job; nEvents with nEventsPerJob gives many."""
    one = grid.submit(pfnList=..., nFiles=2)
    grid.wait(one, "done")
    assert [j["Files"][0]["lfn"] for j in grid.jobs(one)] == ["pseudo_lfn"]
    numbers = [{"type": "template", "param_type": "number", "value": "echo ${SN} ${MAXEVENTS}"}]
    many = grid.submit(
        pfnList=..., nEvents=6, nEventsPerJob=2, jobParameters=numbers, encJobParams=..., transPath="bash-c"
    )
    grid.wait(many, "done")
    assert sorted(j["jobParameters"] for j in grid.jobs(many)) == ["echo 1 2", "echo 2 2", "echo 3 2"]
