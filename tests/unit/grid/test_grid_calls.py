"""PandaGrid against scripted answers: idempotent submission, uploads, kills, batches."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from airflow_provider_panda.exceptions import (
    GridAuthError,
    GridRefusedError,
    GridServerError,
    GridUnreachableError,
    TaskNotFoundError,
)
from airflow_provider_panda.grid import client as client_module
from airflow_provider_panda.grid import session
from airflow_provider_panda.grid.answers import KillOutcome
from airflow_provider_panda.grid.endpoint import AuthKind, PandaEndpoint
from airflow_provider_panda.grid.panda import PandaGrid
from airflow_provider_panda.grid.parameters import GridDefaults
from airflow_provider_panda.grid.retry import RetryPolicy
from airflow_provider_panda.grid.task import Phase, TaskSpec
from tests.stack.scripted_panda import (
    ScriptedPanda,
    Seen,
    body,
    envelope,
    lose,
    refusal,
    scripted_panda,
    status,
)

NAME = "airflow-hello-afabcd00000000000000"
SPEC = TaskSpec(
    key="afabcd00000000000000",
    name=NAME,
    n_jobs=2,
    command="python3 boot.py",
    archive_name="sources.0.tar.gz",
    processing_type="airflow-abcd",
)
LIST, SUBMIT = "task/get_tasks_detailed_info_since", "task/submit"


@pytest.fixture
def panda() -> Iterator[ScriptedPanda]:
    with scripted_panda() as server:
        server.on(LIST, envelope([]))
        yield server


@pytest.fixture
def paused() -> list[float]:
    return []


@pytest.fixture
def grid(panda: ScriptedPanda, paused: list[float]) -> PandaGrid:
    return PandaGrid(
        PandaEndpoint(url=panda.url, auth=AuthKind.TOKEN, token="t", vo="wlcg"),
        defaults=GridDefaults(queue="Q"),
        policy=RetryPolicy(attempts=4),
        kill_policy=RetryPolicy(attempts=3),
        pause=paused.append,
    )


def row(task_id: int, state: str = "running", **fields: Any) -> dict[str, Any]:
    known = {"jediTaskID": task_id, "taskName": NAME, "status": state, "processingType": "airflow-abcd", "nFiles": 2}
    return {**known, **fields}


def test_submit_a_new_task(grid: PandaGrid, panda: ScriptedPanda) -> None:
    panda.on(SUBMIT, envelope(11, message="succeeded. new jediTaskID=11"))
    assert grid.submit(SPEC) == 11
    sent = panda.calls(SUBMIT)[0].json
    assert sent["parent_tid"] is None
    assert sent["task_parameters"]["taskName"] == NAME
    assert sent["task_parameters"]["site"] == "Q"
    assert sent["task_parameters"]["sourceURL"] == panda.url
    assert json.loads(panda.calls(LIST)[0].query["filters"][0]) == {"taskName": NAME, "processingType": "airflow-abcd"}


@pytest.mark.parametrize("state", ["running", "done", "aborted"])
def test_a_task_of_that_name_is_not_submitted_again(grid: PandaGrid, panda: ScriptedPanda, state: str) -> None:
    panda.on(LIST, envelope([row(11, state)]))
    assert grid.submit(SPEC) == 11
    assert panda.calls(SUBMIT) == []


@pytest.mark.parametrize(
    ("code", "message"),
    [(1, "jediTaskID=28 is already queued for outDS=x."), (2, "jediTaskID=28 is in the running state for outDS=x.")],
)
def test_a_known_name_gives_its_id(grid: PandaGrid, panda: ScriptedPanda, code: int, message: str) -> None:
    panda.on(SUBMIT, refusal(message, code))
    assert grid.submit(SPEC) == 28


def test_a_lost_reply_is_looked_up_by_name(grid: PandaGrid, panda: ScriptedPanda, paused: list[float]) -> None:
    def register(_: Seen) -> None:
        panda.on(LIST, envelope([row(31)]))

    panda.on(SUBMIT, lose(register))
    assert grid.submit(SPEC) == 31
    assert len(panda.calls(SUBMIT)) == 1
    assert len(paused) == 1


def test_a_lost_reply_of_a_task_not_listed_yet(grid: PandaGrid, panda: ScriptedPanda) -> None:
    panda.on(SUBMIT, lose(), status(502), refusal("jediTaskID=32 is already queued for outDS=x.", 1))
    assert grid.submit(SPEC) == 32
    assert len(panda.calls(SUBMIT)) == 3


@pytest.mark.parametrize(
    ("states", "kept", "killed"),
    [
        ({11: "running", 12: "running"}, 11, [12]),
        ({12: "pending", 11: "running", 13: "scouting"}, 11, [12, 13]),
        ({11: "aborted", 12: "running"}, 12, []),
        ({11: "failed", 12: "failed"}, 11, []),
        ({11: "running", 12: "done"}, 11, []),  # nothing to kill any more
    ],
)
def test_of_two_tasks_of_one_name_the_first_counts(
    grid: PandaGrid, panda: ScriptedPanda, states: dict[int, str], kept: int, killed: list[int]
) -> None:
    """PanDA looks for a name before it inserts a task: two submissions at one moment may both be taken."""
    panda.on(LIST, envelope([row(task_id, state) for task_id, state in states.items()]))
    panda.on("task/kill", envelope(0))
    assert grid.submit(SPEC) == kept
    assert panda.calls(SUBMIT) == []
    assert [seen.json["task_id"] for seen in panda.calls("task/kill")] == killed
    found = grid.find(NAME)
    assert found is not None
    assert found.task_id == kept
    assert len(panda.calls("task/kill")) == len(killed)  # a look alone kills nothing


def test_a_second_task_that_cannot_be_killed_fails_nothing(
    grid: PandaGrid, panda: ScriptedPanda, caplog: pytest.LogCaptureFixture
) -> None:
    panda.on(LIST, envelope([row(11), row(12)]))
    panda.on("task/kill", status(503))
    assert grid.submit(SPEC) == 11
    assert "PanDA took it twice; task 12 was not killed" in caplog.text


def test_submission_ends_after_bounded_attempts(grid: PandaGrid, panda: ScriptedPanda, paused: list[float]) -> None:
    panda.on(SUBMIT, lose())
    with pytest.raises(GridUnreachableError):
        grid.submit(SPEC)
    assert len(panda.calls(SUBMIT)) == 4
    assert len(paused) == 3


def test_a_refused_submission_is_made_once(grid: PandaGrid, panda: ScriptedPanda) -> None:
    panda.on(SUBMIT, refusal("failed to register task", 4))
    with pytest.raises(GridRefusedError, match="failed to register"):
        grid.submit(SPEC)
    assert len(panda.calls(SUBMIT)) == 1


def test_upload(grid: PandaGrid, panda: ScriptedPanda) -> None:
    path = "file_server/upload_cache_file"
    panda.on(path, status(500), envelope(), refusal("ERROR: cannot overwrite file"))
    grid.upload("sources.0.tar.gz", b"x")
    grid.upload("sources.0.tar.gz", b"x")
    assert len(panda.calls(path)) == 3
    assert grid.archive_url("sources.0.tar.gz") == f"{panda.url}/cache/sources.0.tar.gz"


@pytest.mark.parametrize("there", [True, False])
def test_an_upload_that_could_not_be_registered_is_looked_for(
    grid: PandaGrid, panda: ScriptedPanda, there: bool
) -> None:
    panda.on(
        "file_server/upload_cache_file",
        refusal("ERROR : failed to register sandbox to DB with production or pilot role required"),
    )
    if there:
        panda.on("/cache/sources.0.tar.gz", body("x"))
        grid.upload("sources.0.tar.gz", b"x")
        assert panda.calls("/cache/sources.0.tar.gz")[0].method == "HEAD"
    else:
        with pytest.raises(GridServerError, match="not in the cache"):
            grid.upload("sources.0.tar.gz", b"x")


def test_find_takes_the_newest_and_only_the_exact_name(grid: PandaGrid, panda: ScriptedPanda) -> None:
    other = {**row(99), "taskName": f"{NAME}-longer"}
    panda.on(LIST, envelope([row(11, "failed"), other, row(12)]))
    found = grid.find(NAME)
    assert found is not None
    assert (found.task_id, found.phase) == (12, Phase.ACTIVE)
    panda.on(LIST, envelope([]))
    assert grid.find(NAME) is None


def test_statuses(grid: PandaGrid, panda: ScriptedPanda) -> None:
    other = {**row(13), "processingType": "airflow-other"}
    panda.on(LIST, envelope([row(11), row(12, "pending", errorDialog='<a href="x">log</a> : unknown site=X'), other]))
    first, second = grid.statuses("airflow-abcd")
    assert (first.task_id, first.jobs_total) == (11, 2)
    assert (second.phase, second.error) == (Phase.WAITING, "log : unknown site=X")
    assert "since" not in panda.calls(LIST)[0].query


def test_status_of_an_unknown_task(grid: PandaGrid, panda: ScriptedPanda) -> None:
    panda.on("task/get_detailed_info", refusal("Task not found or error retrieving task info"))
    with pytest.raises(TaskNotFoundError):
        grid.status(9)


def job(panda_id: int, **fields: Any) -> dict[str, Any]:
    files = [{"type": "pseudo_input", "lfn": f"000000:j{panda_id - 1000}"}]
    return {"PandaID": panda_id, "attemptNr": 1, "jobStatus": "finished", "Files": files, **fields}


def describe(make: Callable[[int], dict[str, Any] | None]) -> Callable[[BaseHTTPRequestHandler, Seen], None]:
    def script(handler: BaseHTTPRequestHandler, seen: Seen) -> None:
        envelope([make(panda_id) for panda_id in seen.json["job_ids"]])(handler, seen)

    return script


def test_jobs_in_batches_and_from_the_archive(grid: PandaGrid, panda: ScriptedPanda) -> None:
    panda.on("task/get_job_ids", envelope(list(range(1249, 999, -1))))
    panda.on("job/get_description", describe(lambda i: None if i == 1007 else job(i, metadata='{"a": 1}')))
    panda.on("job/get_description_incl_archive", describe(job))
    records = grid.jobs(5)
    assert sorted(record.job for record in records if record.job is not None) == list(range(250))
    assert [len(seen.json["job_ids"]) for seen in panda.calls("job/get_description")] == [100, 100, 50]
    assert [seen.json["job_ids"] for seen in panda.calls("job/get_description_incl_archive")] == [[1007]]
    assert len(grid.reports(5)) == 249
    assert [record.panda_id for record in grid.jobs(5, [1003])] == [1003]


def test_batches_are_read_one_after_the_other(grid: PandaGrid, panda: ScriptedPanda) -> None:
    panda.on("task/get_job_ids", envelope(list(range(1000, 1150))))
    panda.on("job/get_description", describe(job))
    batches = grid.record_batches(5)
    assert len(next(batches)) == 100
    assert len(panda.calls("job/get_description")) == 1
    assert [record.job for record in next(batches)] == list(range(100, 150))


def test_too_large_a_batch_is_halved(grid: PandaGrid, panda: ScriptedPanda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "Session", lambda endpoint: session.Session(endpoint, limit=20_000))
    panda.on("task/get_job_ids", envelope([1000, 1001, 1002, 1003]))
    panda.on("job/get_description", describe(lambda i: job(i, metadata=json.dumps({"x": "y" * 9_000}))))
    assert [record.job for record in grid.reports(5)] == [0, 1, 2, 3]
    assert [len(seen.json["job_ids"]) for seen in panda.calls("job/get_description")] == [4, 2, 2]


NOT_OWNER = "not the task owner or no production role"


def test_kill_waits_for_the_registration(grid: PandaGrid, panda: ScriptedPanda, paused: list[float]) -> None:
    panda.on("task/kill", refusal(NOT_OWNER), status(502), envelope(0, message="command=kill is registered"))
    assert grid.kill(4) is KillOutcome.REGISTERED
    assert len(paused) == 2


def test_kill_of_an_ended_task_is_fine(grid: PandaGrid, panda: ScriptedPanda) -> None:
    message = "Command rejected: the kill command is not accepted if the task is in done status "
    panda.on("task/kill", refusal(message, 4))
    assert grid.kill(4) is KillOutcome.ENDED


def test_kill_of_another_users_task(grid: PandaGrid, panda: ScriptedPanda) -> None:
    panda.on("task/kill", refusal(NOT_OWNER))
    with pytest.raises(TaskNotFoundError, match="another user's"):
        grid.kill(4)
    assert len(panda.calls("task/kill")) == 3


def test_retry_is_made_once(grid: PandaGrid, panda: ScriptedPanda) -> None:
    panda.on("task/retry", lose())
    with pytest.raises(GridUnreachableError):
        grid.retry(4)
    assert len(panda.calls("task/retry")) == 1


def test_secrets(grid: PandaGrid, panda: ScriptedPanda) -> None:
    panda.on("creds/set_user_secrets", envelope(message="OK"))
    panda.on("creds/get_user_secrets", envelope('{"K": "V"}'))
    grid.set_secret("K", "V")
    assert panda.calls("creds/set_user_secrets")[0].json == {"key": "K", "value": "V"}
    assert grid.secrets() == {"K": "V"}


def test_check(grid: PandaGrid, panda: ScriptedPanda) -> None:
    panda.on("system/is_alive", envelope())
    assert "accepts the credentials" in grid.check()
    panda.on(LIST, refusal("SSL secure connection is required"))
    with pytest.raises(GridAuthError):
        grid.check()
    panda.on(LIST, refusal("database is down"))
    with pytest.raises(GridRefusedError, match=r"alive, but.*database is down"):
        grid.check()
