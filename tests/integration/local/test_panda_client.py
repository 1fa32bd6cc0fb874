"""The unmodified panda-client 2.2 against the embedded grid."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from .conftest import RunningGrid, decoded, parameters


def call(grid: RunningGrid, code: str) -> object:
    return grid.client(f"print(json.dumps({code}, default=str))")


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_it_is_alive(grid: RunningGrid) -> None:
    assert call(grid, "Client.hello()") == [0, ""]


def test_a_task_runs_to_done_and_its_reports_come_back(grid: RunningGrid) -> None:
    command = (
        """printf '{"job": "%s", "attempt": %s}' "${IN/T}" ${ATTEMPTNR} > jobReport.json; echo out; echo err >&2"""
    )
    params = parameters(command, ["j0", "j1", "j2"], uniqueTaskName=True)
    code, (result, message) = call(grid, f"Client.insertTaskParams(json.loads({json.dumps(json.dumps(params))}))")
    assert (code, result) == (0, 0)
    assert message.startswith("succeeded. new jediTaskID=")
    task_id = int(message.rsplit("=", 1)[1])
    assert grid.wait(task_id, "done", "finished", "failed") == "done"
    assert call(grid, f"Client.getTaskStatus({task_id})") == [0, "done"]

    code, jobs = call(grid, f"Client.get_job_descriptions({task_id})")
    assert code == 0
    assert [j["jobStatus"] for j in jobs] == ["finished"] * 3
    assert sorted(next(f["lfn"] for f in j["Files"] if f["type"] == "pseudo_input") for j in jobs) == [
        "000000:j0",
        "000001:j1",
        "000002:j2",
    ]
    assert decoded(jobs[0]).startswith("""printf '{"job": "%s", "attempt": %s}' "['j0']" 1 >""")
    assert json.loads(jobs[1]["metadata"]) == {"job": "['j1']", "attempt": 1}
    assert jobs[0]["transExitCode"] == "0"

    code, reports = call(grid, f"Client.getUserJobMetadata({task_id})")
    assert code == 0
    assert {r["job"] for r in reports.values()} == {"['j0']", "['j1']", "['j2']"}
    assert set(reports) == {str(j["PandaID"]) for j in jobs}

    code, found = call(grid, f"Client.get_tasks_detailed_info_since(filters={{'taskName': {params['taskName']!r}}})")
    assert code == 0
    assert [t["jediTaskID"] for t in found] == [task_id]
    assert (found[0]["nFilesFinished"], found[0]["pctFinished"], found[0]["userName"]) == (3, 100, "Grid User")

    code, ids = call(grid, f"Client.getPandaIDsWithTaskID({task_id})")
    assert sorted(ids) == sorted(j["PandaID"] for j in jobs)
    states = call(grid, f"[s.jobStatus for s in Client.getFullJobStatus({ids})[1]]")
    assert states == ["finished"] * 3
    code, details = call(grid, f"Client.getJediTaskDetails({{'jediTaskID': {task_id}}}, True, True)")
    assert details["statistics"] == "finished*3"
    assert sorted(details["PandaID"]) == sorted(ids)
    code, files = call(grid, f"Client.get_files_in_datasets({task_id})")
    assert [f["status"] for f in files[0]["files"]] == ["finished"] * 3
    code, kept = call(grid, f"Client.getTaskParamsMap({task_id})")
    assert (kept["userName"], kept["taskType"], kept["taskPriority"]) == ("Grid User", "anal", 1000)


def test_a_name_is_submitted_once(start: Callable[..., RunningGrid]) -> None:
    grid = start("--register-delay", "3")
    params = json.dumps(json.dumps(parameters("sleep 60", uniqueTaskName=True)))
    # By one process, which has done it before the task is registered.
    submitted = f"[Client.insertTaskParams(json.loads({params})) for _ in range(2)]"
    asked = "(lambda task_id: [Client.getTaskStatus(task_id), Client.killTask(task_id)])"
    told = f"(lambda made: [*made, *{asked}(int(made[0][1][1].rsplit('=', 1)[1]))])({submitted})"
    first, second, status, killed = call(grid, told)
    task_id = int(first[1][1].rsplit("=", 1)[1])
    assert second[1][0] == 1
    assert second[1][1].startswith(f"jediTaskID={task_id} is already queued for outDS=")
    assert status == [255, None]
    assert killed == [0, [False, "not the task owner or no production role"]]
    grid.wait(task_id, "running")
    third = call(grid, f"Client.insertTaskParams(json.loads({params}))")
    assert third[1][0] == 2
    assert f"jediTaskID={task_id} is in the running state" in third[1][1]
    assert call(grid, f"Client.killTask({task_id})") == [0, [True, 0]]
    grid.wait(task_id, "aborted")


def test_a_failed_job_is_tried_again_and_then_the_task_is_retried(grid: RunningGrid) -> None:
    task_id = grid.submit(command='echo "boom ${ATTEMPTNR}" >&2; [ ${ATTEMPTNR} = 3 ] || exit 73', maxAttempt=2)
    assert grid.wait(task_id, "done", "finished", "failed") == "failed"
    jobs = grid.jobs(task_id)
    assert [(j["attemptNr"], j["jobStatus"], j["transExitCode"]) for j in jobs] == [
        (1, "failed", "73"),
        (2, "failed", "73"),
    ]
    assert jobs[1]["exeErrorCode"] == 73
    assert jobs[1]["pilotErrorCode"] == 1305
    assert jobs[1]["pilotErrorDiag"] == "Failed to execute payload:boom 2"
    assert jobs[1]["metadata"] is None
    info = grid.get("task/get_detailed_info", task_id=task_id)["data"]
    assert info["errorDialog"] == "failed since no file was successfully processed"

    code, (data, message) = call(grid, f"Client.retryTask({task_id})")
    assert (code, data) == (0, 0)
    assert message == f"command=retry is registered for task ID {task_id}. will be executed in a few minutes"
    assert grid.wait(task_id, "done") == "done"
    assert grid.jobs(task_id)[-1]["attemptNr"] == 3
    code, (data, message) = call(grid, f"Client.retryTask({task_id})")
    assert data == 4
    assert message == "Command rejected: the retry command is not accepted if the task is in done status "


def test_kill_ends_the_processes(grid: RunningGrid, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    task_id = grid.submit(command=f"sleep 600 & echo $! > {mark}.tmp; mv {mark}.tmp {mark}; wait", maxAttempt=3)
    grid.wait(task_id, "running")
    while not mark.exists():
        time.sleep(0.05)
    assert call(grid, f"Client.killTask({task_id})") == [0, [True, 0]]
    assert grid.wait(task_id, "aborted") == "aborted"
    (job,) = grid.jobs(task_id)
    assert (job["jobStatus"], job["taskBufferErrorCode"], job["taskBufferErrorDiag"]) == (
        "cancelled",
        100,
        "kill by Grid User",
    )
    assert not runs(int(mark.read_text()))
    rejected = call(grid, f"Client.killTask({task_id})")
    assert rejected[1] == [
        False,
        "Command rejected: the kill command is not accepted if the task is in aborted status ",
    ]


def test_finish_keeps_what_is_there(grid: RunningGrid) -> None:
    task_id = grid.submit(command="""case "${IN/T}" in *j0*) ;; *) sleep 600;; esac""", jobs=["j0", "j1"])
    while [j["jobStatus"] for j in grid.jobs(task_id)].count("finished") < 1:
        time.sleep(0.05)
    assert call(grid, f"Client.finishTask({task_id})") == [0, [True, 0]]
    assert grid.wait(task_id, "finished", "done", "failed") == "finished"


def test_files_are_kept_once(grid: RunningGrid, tmp_path: Path) -> None:
    archive = tmp_path / "sources.abc.tar.gz"
    archive.write_bytes(gzip.compress(b"some content" * 50, mtime=1))
    put = f"Client.putFile({str(archive)!r})"
    assert call(grid, put) == [0, "True"]
    assert call(grid, put) == [0, "ERROR: cannot overwrite file"]
    assert call(grid, f"Client.putFile({str(archive)!r}, reuseSandbox=True)") == [0, "NewFileName:sources.abc.tar.gz"]
    target = tmp_path / "back"
    assert call(grid, f"Client.getFile('sources.abc.tar.gz', output_path={str(target)!r})")[0] == 0
    assert target.read_bytes() == archive.read_bytes()
    (tmp_path / "other.gz").write_bytes(gzip.compress(b"x"))
    small = call(grid, f"Client.putFile({str(tmp_path / 'other.gz')!r}, reuseSandbox=True)")
    assert small == [0, "True"]


def test_secrets_reach_the_job_and_leave_with_it(grid: RunningGrid, tmp_path: Path) -> None:
    secret = json.dumps({"k": "v"})
    assert call(grid, f"Client.set_user_secret('AIRFLOW_PANDA', {secret!r})") == [0, [True, None]]
    assert call(grid, "Client.get_user_secrets()") == [0, [True, {"AIRFLOW_PANDA": secret}]]
    copy = tmp_path / "copy"
    task_id = grid.submit(
        command=f"stat -c %a panda_secrets.json > {copy}.mode; cat panda_secrets.json > {copy}", useSecrets=True
    )
    grid.wait(task_id, "done")
    assert json.loads(copy.read_text()) == {"AIRFLOW_PANDA": secret}
    assert (tmp_path / "copy.mode").read_text().strip() == "600"
    (job,) = grid.jobs(task_id)
    scratch = grid.data / "scratch" / str(job["PandaID"])
    assert scratch.is_dir()
    assert not (scratch / "panda_secrets.json").exists()
    assert call(grid, "Client.set_user_secret(None, None)") == [0, [True, None]]


def test_relay_without_idds(grid: RunningGrid) -> None:
    answer = call(grid, "Client.call_idds_command('ping', compress=True, manager=True)")
    assert answer == [0, [False, "failed to execute command with No section: 'rest'"]]
    bare = call(grid, "Client.call_idds_command('ping')")
    assert bare == [255, "relay_idds_command() missing 1 required positional argument: 'command_name'"]


def test_attributes_do_not_echo_the_token(grid: RunningGrid) -> None:
    assert call(grid, "Client.get_cert_attributes()") == [0, {}]
    environment = grid.get("system/get_attributes")["data"]["environment"]
    assert environment["HTTP_ORIGIN"] == "wlcg"
    assert grid.token not in json.dumps(environment)


def test_pbook(grid: RunningGrid, tmp_path: Path) -> None:
    task_id = grid.submit(command="sleep 600")
    grid.wait(task_id, "running")

    def pbook(command: str) -> str:
        program = "from pandaclient import PBookScript; PBookScript.main()"
        done = subprocess.run(
            [sys.executable, "-c", program, "-c", command],
            env=grid.environment,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    shown = pbook(f"show({task_id})")
    assert "PBook user: Grid User" in shown
    assert f" {task_id} {task_id} running " in " ".join(shown.split())
    assert f"jediTaskID={task_id} will be killed" in pbook(f"kill({task_id})")
    grid.wait(task_id, "aborted")
    pbook(f"retry({task_id})")
    grid.wait(task_id, "running")
    pbook(f"finish({task_id})")
    assert grid.wait(task_id, "failed", "aborted", "done") == "failed"
