"""What PanDA's answers mean, by table and by captured exchanges (tests/samples/panda)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_panda.exceptions import (
    GridAuthError,
    GridError,
    GridRefusedError,
    GridServerError,
    TaskNotFoundError,
)
from airflow_provider_panda.grid import answers
from airflow_provider_panda.grid.answers import Answer, KillOutcome, Stored
from airflow_provider_panda.grid.task import PHASES, Phase

SAMPLES = Path(__file__).parents[2] / "samples" / "panda"
URL = "https://panda.example:443/api/v1/x"


def sample(name: str) -> list[Answer]:
    """Return the captured answers of one method, read as from the wire."""
    exchanges = json.loads((SAMPLES / f"{name}.json").read_text())
    found = []
    for exchange in exchanges:
        text = exchange["response_body"]
        text = text if isinstance(text, str) else json.dumps(text)
        found.append(answers.read_answer(exchange["status"], text.encode(), URL))
    return found


def answer(data: Any = None, message: str = "", *, success: bool = False) -> Answer:
    return Answer(success=success, message=message, data=data, url=URL)


@pytest.mark.parametrize(
    ("status", "body", "kind", "says"),
    [
        (403, "ERROR : Token authentication failed. Invalid token. Signature has expired", GridAuthError, "expired"),
        (401, "", GridAuthError, "Renew the token"),
        (403, "ERROR : method is_alive is forbidden", GridRefusedError, "panda-server 1.0"),
        (500, "'utf-8' codec can't decode byte 0x8b", GridServerError, "HTTP 500"),
        (502, "<html><h1>Bad Gateway</h1></html>", GridServerError, "Bad Gateway"),
        (503, "", GridServerError, "HTTP 503"),
        (429, "slow down", GridServerError, "HTTP 429"),
        (302, "", GridServerError, "redirects"),
        (404, "<html><title>404</title></html>", GridServerError, "HTTP 404"),
        (400, "bad", GridRefusedError, "HTTP 400"),
        (200, "<!DOCTYPE html><html><title>Sign in</title>", GridServerError, "'Sign in'"),
        (200, '{"success": true, "mess', GridServerError, "complete JSON"),
        (200, "", GridServerError, "empty body"),
        (200, "[1]", GridServerError, "envelope"),
        (200, '{"success": "yes"}', GridServerError, "envelope"),
        (200, "[" * 200_000, GridServerError, "complete JSON"),
        (
            200,
            '{"success": false, "message": "SSL secure connection is required", "data": null}',
            GridAuthError,
            "wants credentials",
        ),
    ],
)
def test_an_answer_that_is_none_becomes_one_error(status: int, body: str, kind: type[GridError], says: str) -> None:
    with pytest.raises(kind, match=says) as caught:
        answers.read_answer(status, body.encode(), URL)
    assert type(caught.value) is kind
    assert caught.value.url == URL


def test_server_error_keeps_the_status() -> None:
    with pytest.raises(GridServerError) as caught:
        answers.read_answer(502, b"", URL)
    assert caught.value.status == 502


def test_a_token_in_an_answer_does_not_get_into_the_message() -> None:
    body = b"Traceback: Bearer opaque-token-1 and eyJhbGciOi.eyJzdWIi.c2ln were sent"
    with pytest.raises(GridAuthError) as caught:
        answers.read_answer(403, body, URL)
    assert "opaque-token-1" not in str(caught.value)
    assert "eyJ" not in str(caught.value)


def test_plain_text_of_an_error_dialog() -> None:
    dialog = (
        '<a href="https://x/log?q=1">log</a> : unknown site=NO_SUCH_SITE. '
        "brokerage failed &amp; a &lt; b<br/>\n when 1 < 2"
    )
    assert answers.plain_text(dialog) == "log : unknown site=NO_SUCH_SITE. brokerage failed & a < b when 1 < 2"
    assert len(answers.plain_text("x" * 5000)) == answers.TEXT_LIMIT


def test_submit_answers_of_the_real_server() -> None:
    assert [answers.submitted(one) for one in sample("task.submit")] == [1, 11, 11]


@pytest.mark.parametrize(
    ("given", "task_id"),
    [
        (answer(11, "succeeded. new jediTaskID=11", success=True), 11),
        (answer(12, "", success=True), 12),
        (answer(13, "reactivation accepted. jediTaskID=13 (currently in finished state)", success=True), 13),
        (answer(3, "reactivation accepted. jediTaskID=14 (currently in finished state)"), 14),
        (answer(1, "jediTaskID=28 is already queued for outDS=a. You cannot submit duplicated tasks. "), 28),
    ],
)
def test_submitted(given: Answer, task_id: int) -> None:
    assert answers.submitted(given) == task_id


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (answer(4, "failed to register task"), "failed to register task"),
        (answer(10, "too many active tasks jediTaskID=3"), "have ended"),
        (answer(None, "Type error: 'task_parameters' must be of type dict, got str."), "must be of type dict"),
        (answer(True, "jediTaskID=3"), "refused"),
    ],
)
def test_refused_submission_keeps_the_reason(given: Answer, says: str) -> None:
    with pytest.raises(GridRefusedError, match=says):
        answers.submitted(given)


def test_kill_answers_of_the_real_server() -> None:
    unknown, registered, done = sample("task.kill")
    with pytest.raises(TaskNotFoundError, match="not the task owner"):
        answers.killed(unknown)
    assert answers.killed(registered) is KillOutcome.REGISTERED
    assert answers.killed(done) is KillOutcome.ENDED


def test_kill_of_an_unknown_task_by_a_production_user() -> None:
    with pytest.raises(TaskNotFoundError):
        answers.killed(answer(2, "jediTaskID=99999 not found"))


def test_retry_answers_of_the_real_server() -> None:
    unknown, registered, done, running = sample("task.retry")
    with pytest.raises(TaskNotFoundError):
        answers.retried(unknown)
    answers.retried(registered)
    answers.retried(running)
    with pytest.raises(GridRefusedError, match="done status"):
        answers.retried(done)


def test_upload_answers_of_the_real_server() -> None:
    assert [answers.stored(one) for one in sample("file_server.upload_cache_file")] == [
        Stored.UNCERTAIN,
        Stored.PRESENT,
        Stored.NEW,
    ]
    with pytest.raises(GridRefusedError, match="exceeds"):
        answers.stored(answer(None, "ERROR: size exceeds the limit"))


def test_secrets() -> None:
    assert answers.user_secrets(sample("creds.get_user_secrets")[0]) == {"mykey": "myval"}
    assert answers.user_secrets(answer(None, "No secrets found for Test User", success=True)) == {}
    assert answers.user_secrets(answer(None, "No secrets found for Test User")) == {}
    assert answers.user_secrets(answer({"k": {"a": 1}}, success=True)) == {"k": '{"a": 1}'}
    with pytest.raises(GridServerError):
        answers.user_secrets(answer("no json", success=True))


def test_a_task_of_the_real_server() -> None:
    found, unknown = sample("task.get_detailed_info")
    status = answers.one_task(found, 2)
    assert (status.task_id, status.status, status.phase) == (2, "finished", Phase.PARTIAL)
    assert (status.jobs_total, status.jobs_finished, status.jobs_failed) == (2, 1, 1)
    assert status.error is None
    with pytest.raises(TaskNotFoundError):
        answers.one_task(unknown, 9999)
    with pytest.raises(TaskNotFoundError):
        answers.one_task(found, 3)


def test_a_listing_of_the_real_server_and_a_filter_that_was_ignored() -> None:
    (listing,) = sample("task.get_tasks_detailed_info_since")
    (status,) = answers.task_statuses(listing, processingType="panda-client-2.2.0-jedi-run")
    assert (status.task_id, status.phase) == (1, Phase.DONE)
    assert answers.task_statuses(listing, processingType="airflow-abcd") == []
    assert answers.task_statuses(answer(None, success=True)) == []
    with pytest.raises(GridServerError):
        answers.task_statuses(answer({"a": 1}, success=True))


@pytest.mark.parametrize("status", sorted(PHASES))
def test_every_task_state_is_told(status: str) -> None:
    row = {"jediTaskID": 5, "taskName": "n", "status": status, "errorDialog": "<b>why</b>", "nFiles": "NULL"}
    told = answers.task_status(row)
    assert (told.status, told.phase, told.error, told.jobs_total) == (status, PHASES[status], "why", None)


def test_the_table_of_states_is_that_of_the_server() -> None:
    # facts/panda.md section 5, and JediTaskSpec of panda-server 1.0.4
    known = [
        "registered",
        "defined",
        "assigning",
        "ready",
        "pending",
        "scouting",
        "scouted",
        "running",
        "prepared",
        "done",
        "failed",
        "finished",
        "aborting",
        "aborted",
        "finishing",
        "topreprocess",
        "preprocessing",
        "tobroken",
        "broken",
        "toretry",
        "toincexec",
        "rerefine",
        "paused",
        "throttled",
        "exhausted",
        "staging",
        "staged",
        "passed",
        "toabort",
        "waiting",
        "toreassign",
    ]
    assert set(known) <= set(PHASES)
    assert {status for status, phase in PHASES.items() if phase.terminal} == {
        "done", "finished", "failed", "broken", "aborted", "exhausted"
    }  # fmt: skip


def test_job_descriptions_of_the_real_server() -> None:
    records, unknown = (answers.job_records(one) for one in sample("job.get_description"))
    assert unknown == []
    (job,) = records
    assert (job.panda_id, job.attempt, job.status, job.exit_code, job.host) == (2, 1, "finished", 0, "worker.local")
    assert job.job is None  # its key "in0" is not one of ours
    assert job.report == {"my": "jobReport", "executor": [{"exitCode": 0}], "user_job_metadata": {"result": 42}}
    assert job.diagnostics is None


def test_a_failed_job() -> None:
    record = answers.job_record(
        {
            "PandaID": 7,
            "attemptNr": 2,
            "jobStatus": "failed",
            "computingSite": "LOCAL_TEST",
            "transExitCode": "73",
            "exeErrorCode": 73,
            "exeErrorDiag": "boom",
            "pilotErrorCode": 1305,
            "pilotErrorDiag": "Failed to execute <b>payload</b>",
            "ddmErrorCode": 0,
            "ddmErrorDiag": "NULL",
            "taskBufferErrorCode": 100,
            "taskBufferErrorDiag": None,
            "metadata": "NULL",
            "Files": [
                {"type": "log", "lfn": "x.log.tgz"},
                {"type": "pseudo_input", "lfn": "000012:j12"},
            ],
        }
    )
    assert (record.job, record.attempt, record.exit_code, record.site) == (12, 2, 73, "LOCAL_TEST")
    assert record.report is None
    assert record.diagnostics == "payload 73: boom; pilot 1305: Failed to execute payload; server 100"


@pytest.mark.parametrize(
    ("lfn", "index"),
    [
        ("000000:j0", 0),
        ("j41", 41),
        ("000000:in0", None),
        ("000000:j0x", None),
        (None, None),
        # Through iDDS: base64 of a JSON text.
        ("000000:ImowIg==", 0),
        ("000012:ImoxMiI=", 12),
        ("ImoxMjM0NSI=", 12345),
        ("000000:InBzZXVkb19maWxlIg==", None),
        ("000000:MTI=", None),
        ("000000:eyJhIjogMX0=", None),
        ("000000://///w==", None),
        ("000000:", None),
        ("", None),
    ],
)
def test_job_index(lfn: str | None, index: int | None) -> None:
    row = {"PandaID": 1, "Files": [{"type": "pseudo_input", "lfn": lfn}]}
    assert answers.job_record(row).job == index


def test_job_ids() -> None:
    assert answers.job_ids(sample("task.get_job_ids")[0]) == [2, 3]
    assert answers.job_ids(answer([8, 7, None, "9", True], success=True)) == [7, 8, 9]
