"""Every function of panda-client 2.2 that talks to PanDA, unmodified, against the embedded grid."""

from __future__ import annotations

import ast
import gzip
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.local.conftest import RunningGrid, parameters

from .commands import PandaClient, environment, eventually, states
from .description import answer_violations, call_of, described, violations
from .recorder import Recorder, recorder

UNSERVED: dict[str, tuple[str, list[Any]]] = {
    "submitJobs": ("job/submit", [[]]),
    "send_file_recovery_request": ("file_server/upload_file_recovery_request", [1]),
    "submit_workflow": ("workflow/submit_workflow_raw_request", [{}]),
    "get_workflow_details": ("workflow/get_workflow_details", [1]),
    "get_events_status": ("event/get_event_range_statuses", [[]]),
    "update_events": ("event/update_event_ranges", [[]]),
}
"""Functions whose call the embedded grid does not have (gaps.NOT_HERE), and an example of their arguments."""

NOT_CALLED: dict[str, str] = {
    "build_grid_setup_command": "no request",
    "bytes_decode": "no request",
    "decode_special_cases": "no request",
    "dump_log": "no request",
    "getDN": "no request",
    "get_token_string": "no request",
    "get_new_token": "an interactive login",
    "hide_sensitive_info": "no request",
    "http_request_decorator": "no request",
    "is_https": "no request",
    "requestEventPicking": "ATLAS event picking: gaps.NOT_HERE_FACTS",
    "send_workflow_request": "workflows native to PanDA: gaps.NOT_HERE_FACTS",
    "submit_workflow_tmp": "workflows native to PanDA: gaps.NOT_HERE_FACTS",
    "setCacheServer": "no request",
    "useDevServer": "no request; names hosts at CERN",
    "useIntrServer": "no request; names hosts at CERN",
    "use_oidc": "no request",
    "use_x509_no_grid": "no request",
}
"""Functions that no test calls."""


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGrid]:
    running = RunningGrid(tmp_path_factory.mktemp("client") / "data", "--slots", "4", "--user", "Test User")
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def recorded(grid: RunningGrid) -> Iterator[tuple[str, Recorder]]:
    with recorder(grid.url) as running:
        yield running


@pytest.fixture(scope="module")
def client(grid: RunningGrid, recorded: tuple[str, Recorder]) -> Iterator[PandaClient]:
    """The client of a plain user."""
    with PandaClient(environment(grid, url=recorded[0]), grid.data.parent) as running:
        yield running


@pytest.fixture(scope="module")
def operator(grid: RunningGrid, recorded: tuple[str, Recorder]) -> Iterator[PandaClient]:
    """The client of a user with the production role."""
    with PandaClient(environment(grid, url=recorded[0], vo="wlcg:production"), grid.data.parent) as running:
        yield running


def functions() -> set[str]:
    """Return the public functions of pandaclient.Client, without importing it."""
    spec = importlib.util.find_spec("pandaclient")
    assert spec is not None
    assert spec.submodule_search_locations
    source = Path(spec.submodule_search_locations[0], "Client.py").read_text()
    names = {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    return {name for name in names if not name.startswith("_") and not name.endswith("_internal")}


def test_every_function_is_called_or_excused() -> None:
    called = set(re.findall(r"\b(?:client|operator)\(\s*\"(\w+)\"", Path(__file__).read_text()))
    assert called | set(UNSERVED) | set(NOT_CALLED) == functions()
    assert not (called | set(UNSERVED)) & set(NOT_CALLED)


def submitted(client: PandaClient, command: str = "true", jobs: list[str] | None = None, **changes: Any) -> int:
    code, (result, message) = client("insertTaskParams", parameters(command, jobs, **changes))
    assert (code, result) == (0, 0)
    return int(message.removeprefix("succeeded. new jediTaskID="))


def test_who_one_is(client: PandaClient) -> None:
    assert client("hello") == [0, ""]
    assert client("get_user_name_from_token")[:1] == ["Test User"]


def test_a_task_that_is_done(client: PandaClient, grid: RunningGrid) -> None:
    task_id = submitted(client, "echo '{\"n\": 1}' > jobReport.json", ["a", "b"])
    assert grid.wait(task_id, "done", "failed", "finished", "broken") == "done"
    assert client("getTaskStatus", task_id) == [0, "done"]
    code, ids = client("getPandaIDsWithTaskID", task_id)
    assert (code, len(ids)) == (0, 2)
    for name in ("getJobStatus", "getFullJobStatus"):
        assert client(name, ids)[0] == 0
    code, jobs = client("getJobStatus", ids)
    assert [job["jobStatus"] for job in jobs] == ["finished", "finished"]
    code, jobs = client("getFullJobStatus", ids)
    assert sorted(job["PandaID"] for job in jobs) == sorted(ids)
    code, jobs = client("get_job_descriptions", task_id, unsuccessful_only=True)
    assert (code, jobs) == (0, [])
    code, details = client("getJediTaskDetails", {"jediTaskID": task_id}, True, True)
    assert (code, details["statistics"], details["status"]) == (0, "finished*2", "done")
    code, (success, columns) = client("get_task_details_json", task_id)
    assert (code, success, columns["nFilesFinished"], columns["superStatus"]) == (0, True, 2, "done")
    code, params = client("getTaskParamsMap", task_id)
    assert (code, params["userName"]) == (0, "Test User")
    assert client("getUserJobMetadata", task_id) == [0, {str(i): {"n": 1} for i in ids}]
    code, datasets = client("get_files_in_datasets", task_id)
    assert [f["lfn"] for f in datasets[0]["files"]] == ["000000:a", "000001:b"]
    code, found = client("get_tasks_detailed_info_since", filters={"jediTaskID": task_id})
    assert [t["jediTaskID"] for t in found] == [task_id]
    code, modified = client("getJobIDsJediTasksInTimeRange", "2020-01-01 00:00:00")
    assert modified[str(task_id)]["statistics"] == "finished*2"
    assert client("setDebugMode", ids[0], True, False)[0] == 0
    # a task that is done rejects kill and finish, and takes new parameters
    assert client("killTask", task_id)[1][0] is False
    assert client("finishTask", task_id)[1][0] is False


def test_what_is_unknown(client: PandaClient) -> None:
    assert client("getTaskStatus", 987654) == [255, None]
    assert client("getJobStatus", [987654]) == [0, [None]]
    assert client("getPandaIDsWithTaskID", 987654) == [0, []]
    assert client("get_task_details_json", 987654) == [0, [False, "Task not found or error retrieving task info"]]
    assert client("get_files_in_datasets", 987654) == [255, None]
    assert client("killTask", 987654) == [0, [False, "not the task owner or no production role"]]
    assert client("retryTask", 987654) == [0, [None, "not the task owner or no production role"]]


def test_kill(client: PandaClient, grid: RunningGrid) -> None:
    task_id = submitted(client, "sleep 600", ["a", "b"])
    grid.wait(task_id, "running")
    assert client("killTask", task_id) == [0, [True, 0]]
    grid.wait(task_id, "aborted")
    assert {job["jobStatus"] for job in grid.jobs(task_id)} == {"cancelled"}


def test_kill_of_single_jobs(client: PandaClient, grid: RunningGrid) -> None:
    task_id = submitted(client, 'case "${IN/T}" in *a*) sleep 600;; esac', ["a", "b"])
    grid.wait(task_id, "running")
    eventually(lambda: "running" in states(grid, task_id))
    stuck = next(j["PandaID"] for j in grid.jobs(task_id) if j["jobStatus"] == "running" and "'a'" in text(j))
    assert client("killJobs", [stuck, 987654]) == [0, [True, False]]
    assert grid.wait(task_id, "finished", "failed", "done") == "finished"


def text(job: dict[str, Any]) -> str:
    """Return which input a job has, as its parameters name it."""
    return str([f["lfn"].split(":")[1] for f in job["Files"] if f["type"] == "pseudo_input"])


def test_finish(client: PandaClient, grid: RunningGrid) -> None:
    task_id = submitted(client, 'case "${IN/T}" in *a*) sleep 600;; esac', ["a", "b"])
    eventually(lambda: states(grid, task_id).count("finished") == 1)
    assert client("finishTask", task_id) == [0, [True, 0]]
    assert grid.wait(task_id, "finished", "failed", "done") == "finished"


def test_retry_runs_what_failed_again(client: PandaClient, grid: RunningGrid) -> None:
    task_id = submitted(client, "[ ${ATTEMPTNR} = 2 ] || exit 3")
    assert grid.wait(task_id, "failed", "done") == "failed"
    code, (data, message) = client("retryTask", task_id)
    assert (code, data) == (0, 0)
    assert message == f"command=retry is registered for task ID {task_id}. will be executed in a few minutes"
    grid.wait(task_id, "done")
    assert [job["attemptNr"] for job in grid.jobs(task_id)] == [1, 2]


def test_retry_with_new_parameters_is_a_resubmission(client: PandaClient, grid: RunningGrid) -> None:
    task_id = submitted(client, "true", ["a", "b", "c"], nFiles=2)
    assert grid.wait(task_id, "done", "failed") == "done"
    code, (data, message) = client("retryTask", task_id, newParams={"nFiles": 3})
    assert (code, data) == (0, 3)
    assert message.startswith(f"reactivation accepted. jediTaskID={task_id} (currently in done state)")
    eventually(lambda: len(grid.jobs(task_id)) >= 3)
    grid.wait(task_id, "done")
    assert text(grid.jobs(task_id)[-1]) == "['c']"


def test_retry_of_a_running_task_with_new_parameters(client: PandaClient, grid: RunningGrid) -> None:
    task_id = submitted(client, 'case "${IN/T}" in *a*) [ ${ATTEMPTNR} = 2 ];; *) sleep 600;; esac', ["a", "b"])
    eventually(lambda: "failed" in states(grid, task_id))
    code, (data, message) = client("retryTask", task_id, newParams={"ramCount": 3000})
    assert (code, data) == (0, 3)
    assert message.startswith("retry has been triggered for failed jobs while the task is still running.")
    eventually(lambda: "finished" in states(grid, task_id))
    assert client("getTaskParamsMap", task_id)[1]["ramCount"] == 3000
    assert client("killTask", task_id) == [0, [True, 0]]
    grid.wait(task_id, "aborted")


def test_a_second_submission_of_a_done_task_runs_it_again(client: PandaClient, grid: RunningGrid) -> None:
    params = parameters("true", ["a", "b"], nFiles=1, uniqueTaskName=True)
    code, (_, message) = client("insertTaskParams", params)
    task_id = int(message.rsplit("=", 1)[1])
    grid.wait(task_id, "done")
    changed = {**params, "nFiles": 2, "jobParameters": [{"type": "constant", "value": "exit 1"}]}
    code, (data, message) = client("insertTaskParams", changed)
    assert (code, data) == (0, 0), "to the client a success, with the code in no place"
    assert message == (
        f"reactivation accepted. jediTaskID={task_id} (currently in done state) will be re-executed"
        " with old and/or new input"
    )
    eventually(lambda: len(grid.jobs(task_id)) >= 2)
    assert grid.wait(task_id, "done", "finished", "failed") == "done", "it runs what it ran: the command stays"


def test_reload_input(client: PandaClient, grid: RunningGrid) -> None:
    task_id = submitted(client, "[ ${ATTEMPTNR} = 2 ]")
    grid.wait(task_id, "failed")
    assert client("reload_input", task_id) == [0, [True, 0]]
    grid.wait(task_id, "done")
    running = submitted(client, "sleep 600")
    grid.wait(running, "running")
    success, message = client("reload_input", running)[1]
    assert success is False
    assert message == "Command rejected: the incexec command is not accepted if the task is in running status "
    assert client("killTask", running) == [0, [True, 0]]


def test_what_needs_the_production_role(client: PandaClient, operator: PandaClient, grid: RunningGrid) -> None:
    task_id = submitted(client, "sleep 600")
    grid.wait(task_id, "running")
    needed = [0, [False, "production or pilot role required"]]
    assert client("pauseTask", task_id) == needed
    assert client("resumeTask", task_id) == needed
    assert client("reactivateTask", task_id) == needed
    assert client("increase_attempt_nr", task_id) == needed
    assert operator("increase_attempt_nr", task_id) == [0, [True, 0]]
    assert operator("pauseTask", task_id) == [0, [True, 0]]
    assert client("getTaskStatus", task_id) == [0, "paused"]
    assert operator("resumeTask", task_id) == [0, [True, 0]]
    grid.wait(task_id, "running")
    assert operator("killTask", 987654) == [0, [False, "jediTaskID=987654 not found"]]
    assert operator("killTask", task_id) == [0, [True, 0]]
    grid.wait(task_id, "aborted")


def test_reactivate_processes_everything_again(client: PandaClient, operator: PandaClient, grid: RunningGrid) -> None:
    task_id = submitted(client, "true", ["a", "b"])
    grid.wait(task_id, "done")
    assert operator("reactivateTask", task_id) == [0, [True, 0]]
    eventually(lambda: len(grid.jobs(task_id)) >= 4)
    grid.wait(task_id, "done")


def test_a_child_waits_for_its_parent(client: PandaClient, grid: RunningGrid) -> None:
    parent = submitted(client, "while [ ! -e go ]; do sleep 0.1; [ $((i=i+1)) -lt 30 ] || exit 0; done")
    code, (_, message) = client("insertTaskParams", parameters("true"), parent_tid=parent)
    child = int(message.rsplit("=", 1)[1])
    grid.wait(child, "pending")
    info = grid.get("task/get_detailed_info", task_id=child)["data"]
    assert info["errorDialog"] == f"pending until parent task {parent} is done"
    code, found = client("get_parent_detailed_info", child)
    assert (code, found["jediTaskID"]) == (0, parent)
    assert client("get_parent_detailed_info", parent) == [255, None]
    grid.wait(parent, "done")
    grid.wait(child, "done")


def test_files(client: PandaClient, tmp_path: Path) -> None:
    path = tmp_path / "sources.faithful.tar.gz"
    path.write_bytes(gzip.compress(b"content" * 99, mtime=1))
    assert client("putFile", str(path)) == [0, "True"]
    assert client("putFile", str(path)) == [0, "ERROR: cannot overwrite file"]
    assert client("putFile", str(path), reuseSandbox=True) == [0, f"NewFileName:{path.name}"]
    back = tmp_path / "back"
    assert client("getFile", path.name, output_path=str(back)) == [0, True]
    assert back.read_bytes() == path.read_bytes()


def test_secrets(client: PandaClient) -> None:
    assert client("set_user_secret", "k", "v") == [0, [True, None]]
    assert client("get_user_secrets") == [0, [True, {"k": "v"}]]
    assert client("set_user_secret", "k", None) == [0, [True, None]]
    # the client cannot read the server's answer for a user without secrets (data null); it is the real one's
    assert client("get_user_secrets")[0] == "raised"


def test_idds_is_not_configured(client: PandaClient) -> None:
    assert client("call_idds_command", "ping", compress=True, manager=True) == [
        0,
        [False, "failed to execute command with No section: 'rest'"],
    ]
    missing = "relay_idds_command() missing 1 required positional argument: 'command_name'"
    assert client("call_idds_command", "ping") == [255, missing], "the client's own fault: no Content-Type"
    assert client("call_idds_user_workflow_command", "get_status", {"request_id": 1})[0] == 255


def test_attributes(client: PandaClient, grid: RunningGrid) -> None:
    assert client("get_cert_attributes")[0] == 0
    assert client("get_cert_attributes")[1] is not None


@pytest.mark.parametrize("name", UNSERVED)
def test_what_is_not_here_is_refused(client: PandaClient, recorded: tuple[str, Recorder], name: str) -> None:
    call, args = UNSERVED[name]
    assert client(name, *args)[0] == 255
    last = recorded[1].exchanges[-1]
    assert call_of(last.request.path) == call
    method = call.split("/")[1]
    assert (last.status, last.answer.decode()) == (403, f"ERROR : method {method} is forbidden")


CLIENT_DEVIATES: dict[str, set[str]] = {
    "creds/get_user_secrets": {"method GET is not described"},
    "creds/set_user_secrets": {"body: $.value is null, not string"},
    "file_server/upload_cache_file": {"body is multipart/form-data"},
    "job/get_description": {"method POST is not described"},
    "job/get_description_incl_archive": {"method POST is not described"},
    "job/kill": {f"body: $.job_ids[{i}] is int, not object" for i in range(2)},
    "system/get_attributes": {"parameter **kwargs is missing"},
    "task/get_tasks_detailed_info_since": {"parameter since is missing"},
    "task/get_tasks_modified_since": {"parameter min_task_id: $ is str, not integer"},
    "task/retry": {"body: $.new_parameters is object, not string"},
    "task/submit": {"body: $.task_parameters is object, not string", "body: $.parent_tid is null, not integer"},
}
"""What panda-client sends, the real server takes, and the description does not foresee (gaps.SERVER_DEVIATES)."""


def test_the_whole_traffic_keeps_to_the_description(recorded: tuple[str, Recorder]) -> None:
    """Runs last: every request of this file, and every answer to it."""
    seen: set[str] = set()
    for exchange in recorded[1].exchanges:
        call = call_of(exchange.request.path)
        call = call.split("?")[0] if call else None
        if call not in described() or exchange.status != 200:
            continue
        seen.add(call)
        request = exchange.request
        if request.content_type and request.content_type.startswith("multipart/"):
            request = type(request)(request.method, request.path, "multipart/form-data", request.body)
        assert set(violations(request)) <= CLIENT_DEVIATES.get(call, set()), call
        problems = set(answer_violations(json.loads(exchange.answer), exchange.content_type))
        assert all(p.startswith(("content type text/plain", "data: ")) for p in problems), (call, problems)
    assert len(seen) > 20 or len(recorded[1].exchanges) < 40
