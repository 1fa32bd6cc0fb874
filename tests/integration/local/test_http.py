"""Envelope, encodings, credentials and refusals of the embedded grid's HTTP, as samples/panda has them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_provider_panda.local.auth import issue_token, keys_of

from .conftest import RunningGrid, parameters

SAMPLES = Path("/work/shared/samples/panda")


def test_envelope_is_chunked_text(grid: RunningGrid) -> None:
    answer = httpx.get(f"{grid.url}/api/v1/system/is_alive", headers={"Accept": "application/json"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain")
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.json() == {"success": True, "message": "", "data": None}


def test_without_asking_for_json_it_is_a_python_dict(grid: RunningGrid) -> None:
    answer = httpx.get(f"{grid.url}/api/v1/system/is_alive")
    assert answer.text == "{'success': True, 'message': '', 'data': None}"


@pytest.mark.parametrize(
    ("headers", "status", "text"),
    [
        ({}, 200, "SSL secure connection is required"),
        ({"Authorization": "Bearer", "Origin": "wlcg"}, 200, "SSL secure connection is required"),
        ({"Authorization": "Bearer TOKEN"}, 403, "'NoneType' object has no attribute 'replace'"),
        ({"Authorization": "Bearer TOKEN", "Origin": "nosuchvo"}, 403, "Unknown vo : nosuchvo"),
        ({"Authorization": "Bearer garbage", "Origin": "wlcg"}, 403, "Token authentication failed. Invalid token."),
        ({"Authorization": "Bearer EXPIRED", "Origin": "wlcg"}, 403, "Invalid token. Signature has expired"),
        (
            {"Authorization": "Bearer OTHER", "Origin": "wlcg.production"},
            403,
            "Not a member of the wlcg/production group",
        ),
        ({"Authorization": "Bearer FOREIGN", "Origin": "wlcg"}, 403, "Not a member of the wlcg group"),
    ],
)
def test_credentials(grid: RunningGrid, headers: dict[str, str], status: int, text: str) -> None:
    keys = keys_of(grid.data)
    tokens = {
        "TOKEN": grid.token,
        "EXPIRED": issue_token(keys, name="A", nickname="a", groups=["wlcg"], lifetime=-10),
        "OTHER": issue_token(keys, name="A", nickname="a", groups=["wlcg"]),
        "FOREIGN": issue_token(keys, name="A", nickname="a", groups=["atlas"]),
    }
    sent = dict(headers)
    for name, token in tokens.items():
        sent["Authorization"] = sent.get("Authorization", "").replace(name, token)
    if not sent["Authorization"]:
        del sent["Authorization"]
    answer = httpx.get(
        f"{grid.url}/api/v1/task/get_status", params={"task_id": 1}, headers={**sent, "Accept": "application/json"}
    )
    assert answer.status_code == status
    assert text in answer.text


@pytest.mark.parametrize(
    ("method", "path", "params", "message"),
    [
        ("GET", "task/get_status", {}, "Argument error: missing a required argument: 'task_id'"),
        ("GET", "task/get_status", {"task_id": "x"}, "jediTaskID must be an integer"),
        (
            "GET",
            "task/get_job_ids",
            {"task_id": "x"},
            "Type error: 'task_id' with value 'x' could not be casted to type int from str.",
        ),
        ("GET", "task/get_status", {"task_id": 1, "no": 1}, "Argument error: got an unexpected keyword argument 'no'"),
        ("GET", "task/kill", {"task_id": 1}, "expecting POST, received GET"),
        ("POST", "task/get_status", {"task_id": 1}, "expecting GET, received POST"),
        ("POST", "task/kill", {"task_id": "1"}, "Type error: 'task_id' must be of type int, got str."),
        (
            "POST",
            "task/submit",
            {"task_parameters": "x"},
            "Type error: 'task_parameters' must be of type dict, got str.",
        ),
        ("POST", "task/submit", {"task_parameters": {"vo": "wlcg"}}, "failed to register task"),
        ("POST", "task/pause", {"task_id": 1}, "production or pilot role required"),
        ("POST", "pilot/update_job", {"job_id": 1, "job_status": "running"}, "production or pilot role required"),
        ("POST", "task/kill", {"task_id": 987654}, "not the task owner or no production role"),
        ("GET", "task/get_status", {"task_id": 987654}, "Task not found"),
        ("GET", "task/get_detailed_info", {"task_id": 987654}, "Task not found or error retrieving task info"),
    ],
)
def test_errors_are_http_200(grid: RunningGrid, method: str, path: str, params: dict[str, Any], message: str) -> None:
    answer = grid.get(path, **params) if method == "GET" else grid.post(path, **params)
    assert (answer["success"], answer["message"]) == (False, message)


@pytest.mark.parametrize(
    "path", ["/api/latest/system/is_alive", "/api/v1/system/nosuch", "/server/panda/isAlive", "/server/panda/getJob"]
)
def test_unknown_methods_are_forbidden(grid: RunningGrid, path: str) -> None:
    answer = httpx.get(grid.url + path)
    assert (answer.status_code, answer.text) == (403, f"ERROR : method {path.rsplit('/', 1)[1]} is forbidden")


def test_gzip_only_when_said(grid: RunningGrid) -> None:
    body = gzip.compress(json.dumps({"task_id": 987654}).encode())
    url = f"{grid.url}/api/v1/task/kill"
    said = httpx.post(url, content=body, headers={**grid.headers, "Content-Encoding": "gzip"})
    assert said.json()["message"] == "not the task owner or no production role"
    unsaid = httpx.post(url, content=body, headers=grid.headers)
    assert unsaid.status_code == 500
    assert "can't decode byte 0x8b in position 1: invalid start byte" in unsaid.text


def test_somebody_elses_task(grid: RunningGrid) -> None:
    task_id = grid.submit(command="sleep 600")
    grid.wait(task_id, "running")
    token = issue_token(keys_of(grid.data), name="other person", nickname="o", groups=["wlcg"])
    headers = {**grid.headers, "Authorization": f"Bearer {token}"}
    seen = httpx.get(f"{grid.url}/api/v1/task/get_status", params={"task_id": task_id}, headers=headers).json()
    assert seen["data"] == "running"
    killed = httpx.post(f"{grid.url}/api/v1/task/kill", json={"task_id": task_id}, headers=headers).json()
    assert killed["message"] == "not the task owner or no production role"
    unknown = grid.post("task/kill", origin="wlcg.production", task_id=987654)
    assert (unknown["message"], unknown["data"]) == ("jediTaskID=987654 not found", 2)
    assert grid.post("task/kill", task_id=task_id)["success"]
    grid.wait(task_id, "aborted")


def test_unknown_queue_stays_pending_and_can_be_finished(grid: RunningGrid) -> None:
    task_id = grid.submit(site="NO_SUCH_SITE")
    grid.wait(task_id, "pending")
    info = grid.get("task/get_detailed_info", task_id=task_id)["data"]
    assert '">log</a> : unknown site=NO_SUCH_SITE. brokerage failed for 1 input datasets' in info["errorDialog"]
    assert grid.post("task/finish", task_id=task_id)["success"]
    grid.wait(task_id, "failed")


@pytest.mark.parametrize(
    ("changes", "dialog"),
    [
        ({"architecture": ...}, "failed to extract common parameters with KeyError:'architecture' Traceback"),
        ({"vo": "atlas"}, "task refiner is undefined for vo=atlas sourceLabel=user"),
    ],
)
def test_broken_tasks(grid: RunningGrid, changes: dict[str, Any], dialog: str) -> None:
    task_id = grid.submit(**changes)
    grid.wait(task_id, "broken")
    info = grid.get("task/get_detailed_info", task_id=task_id)["data"]
    assert info["errorDialog"].startswith(dialog)


def test_pause_and_resume(grid: RunningGrid) -> None:
    task_id = grid.submit(command="sleep 0.5", jobs=[f"j{i}" for i in range(12)])
    grid.wait(task_id, "running")
    assert grid.post("task/pause", origin="wlcg.production", task_id=task_id)["success"]
    assert grid.status(task_id) == "paused"
    assert "throttled" in {j["jobStatus"] for j in grid.jobs(task_id)}
    assert grid.post("task/resume", origin="wlcg.production", task_id=task_id)["success"]
    assert grid.wait(task_id, "done", "failed", "finished") == "done"


def keys(value: Any) -> Any:
    """Return the shape of a value: keys of dicts, the shape of a list's first element."""
    if isinstance(value, dict):
        return {k: keys(v) if k in ("data", "Files") else None for k, v in value.items()}
    return [keys(value[0])] if isinstance(value, list) and value else None


def sample(name: str, index: int = 0) -> Any:
    path = SAMPLES / f"{name}.json"
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    body = json.loads(path.read_text())[index]["response_body"]
    if isinstance(body, str):  # cut off in the capture: its first element is whole
        start = body.index('"data": [') + len('"data": [')
        return {"success": True, "message": "", "data": [json.JSONDecoder().raw_decode(body, start)[0]]}
    return body


def test_answers_have_the_keys_of_the_real_ones(grid: RunningGrid) -> None:
    params = parameters()
    task_id = grid.post("task/submit", task_parameters=params, parent_tid=None)["data"]
    grid.wait(task_id, "done")
    (panda_id,) = grid.get("task/get_job_ids", task_id=task_id)["data"]
    described = grid.get("task/get_job_descriptions", task_id=task_id, unsuccessful_only=False)
    assert keys(described) == keys(sample("task.get_job_descriptions"))
    assert list(described["data"][0]) == list(sample("task.get_job_descriptions")["data"][0])
    assert keys(grid.post("job/get_description", job_ids=[panda_id])) == keys(sample("job.get_description"))
    detailed = grid.get("task/get_detailed_info", task_id=task_id)
    assert keys(detailed) == keys(sample("task.get_detailed_info"))
    since = grid.get("task/get_tasks_detailed_info_since", filters=json.dumps({"taskName": params["taskName"]}))
    assert keys(since) == keys(sample("task.get_tasks_detailed_info_since"))
    details = grid.get("task/get_details", task_id=task_id, include_parameters=True, include_status=True)
    assert keys(details) == keys(sample("task.get_details"))
    modified = grid.get("task/get_tasks_modified_since", since="2020-01-01 00:00:00", dn="None", full=True)
    real = sample("task.get_tasks_modified_since")["data"]["1"]
    assert list(modified["data"][str(task_id)]) == list(real)
    assert modified["data"][str(task_id)]["statistics"] == "finished*1"
    assert grid.post("job/get_description", job_ids=[99999999])["data"] == [None]


def test_filters(grid: RunningGrid) -> None:
    task_id = grid.submit(processingType="filter-test", reqID=4711, workingGroup="wg1")
    grid.wait(task_id, "done")

    def found(**filters: Any) -> list[int]:
        answer = grid.get("task/get_tasks_detailed_info_since", filters=json.dumps(filters), n_tasks=500)
        return [t["jediTaskID"] for t in answer["data"]]

    for filters in ({"processingType": "filter-test"}, {"reqID": "4711"}, {"reqID": 4711}, {"workingGroup": "wg1"}):
        assert found(**filters) == [task_id]
    assert task_id in found(status="done")
    assert found(processingType="filter-test", status="failed|done") == [task_id]
    assert found(processingType="filter") == []
    wrong = grid.get("task/get_tasks_detailed_info_since", filters=json.dumps({"nosuch": 1}))
    assert wrong["success"] is False


def test_an_outside_pilot(start: Callable[..., RunningGrid]) -> None:
    grid = start("--slots", "0", "--queue", "Q1", "--retry-delay", "0")
    task_id = grid.submit(jobs=["j0", "j1"], encJobParams=..., command='go -i "${IN/T}" ${ATTEMPTNR}', maxAttempt=2)
    grid.wait(task_id, "running")
    assert grid.post("pilot/acquire_jobs", site_name="OTHER")["message"] == "No jobs in PanDA"
    taken = grid.post("pilot/acquire_jobs", site_name="Q1", prod_source_label="user", node="w1", n_jobs=2)["data"]
    first, second = taken["jobs"]
    assert list(first) == list(sample("pilot.acquire_jobs")["data"]["jobs"][0])
    assert first["jobPars"] == "go -i \"['j0']\" 1"

    def update(**body: Any) -> Any:
        return grid.post("pilot/update_job", origin="wlcg.pilot", **body)

    bogus = update(job_id=first["PandaID"], job_status="bogus")
    assert (bogus["message"], bogus["data"]) == ("Invalid job status: bogus", {"StatusCode": 50})
    assert update(job_id=first["PandaID"], job_status="running")["data"] == {"StatusCode": 0, "command": "NULL"}
    report = json.dumps({first["logFile"]: {"guid": first["logGUID"], "fsize": 1, "adler32": "0"}})
    update(
        job_id=first["PandaID"],
        job_status="finished",
        attempt_nr=1,
        job_output_report=report,
        meta_data='{"a": 1}',
        trans_exit_code=0,
    )
    update(job_id=second["PandaID"], job_status="finished", attempt_nr=1, trans_exit_code=0)
    while len(grid.jobs(task_id)) < 3:
        pass
    assert grid.get("job/get_metadata_for_analysis_jobs", task_id=task_id)["data"] == {str(first["PandaID"]): {"a": 1}}
    lost = next(j for j in grid.jobs(task_id) if j["PandaID"] == second["PandaID"])
    assert lost["jobStatus"] == "failed"
    assert "is missing in pilot JSON" in lost["ddmErrorDiag"]
    assert grid.post("task/kill", task_id=task_id)["success"]
    grid.wait(task_id, "aborted")
    late = update(job_id=second["PandaID"], job_status="running")
    assert late["data"]["command"] == "tobekilled"


def test_pages_show_no_secret(grid: RunningGrid) -> None:
    task_id = grid.submit(
        command="echo token=hunter2 >&2; echo hello from the job; exit 3", hidden={"passcode": "hunter2"}
    )
    grid.wait(task_id, "failed")
    (job,) = grid.jobs(task_id)
    pages = [httpx.get(f"{grid.url}{path}") for path in ("/", f"/task/{task_id}/", f"/job/{job['PandaID']}/")]
    assert all(p.status_code == 200 and "embedded grid" in p.text for p in pages)
    assert "hello from the job" in pages[2].text
    assert not any("hunter2" in p.text for p in pages)
    assert httpx.get(f"{grid.url}/task/987654/").status_code == 404
    missing = httpx.get(f"{grid.url}/cache/nosuch.tgz")
    assert (missing.status_code, missing.headers["content-type"]) == (404, "text/html; charset=iso-8859-1")
