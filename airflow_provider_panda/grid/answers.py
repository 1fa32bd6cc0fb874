"""What PanDA's answers mean: pure functions, shared by the synchronous and the asynchronous client.

Everything here was seen on panda-server 1.0.4 (facts/panda.md, samples/panda): errors come at HTTP 200 with
``success`` false, JSON as ``text/plain``, and a status code or an id sometimes only inside a sentence.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final

from airflow_provider_panda.exceptions import (
    GridAuthError,
    GridError,
    GridRefusedError,
    GridServerError,
    TaskNotFoundError,
)
from airflow_provider_panda.grid.task import JobRecord, TaskStatus, phase_of

TEXT_LIMIT: Final = 400
"""Most characters of a server's text that go into a message of ours."""

_LOOKED_AT: Final = 16 * 1024
"""Most characters of a server's text that are looked at for it."""

_LONGEST_TOKEN: Final = 4096

_LONGEST_NAME: Final = 512
"""Most characters of a name: PanDA's columns take 132 to 256, with the scope before it more."""

_NO_CREDENTIALS: Final = "SSL secure connection is required"
_NOT_OWNER: Final = "not the task owner"
_SECRETS: Final = re.compile(r"eyJ[\w-]+\.[\w-]*(\.[\w-]*)?|(?<=Bearer )\S+")
_TASK_ID: Final = re.compile(r"jediTaskID=([0-9]{1,18})(?![0-9])")
_JOB_KEY: Final = re.compile(r"^(?:[0-9]+:)?j([0-9]{1,9})$")
_DIAGNOSTICS: Final = (
    ("payload", "exe"),
    ("pilot", "pilot"),
    ("supervisor", "sup"),
    ("data management", "ddm"),
    ("brokerage", "brokerage"),
    ("dispatcher", "jobDispatcher"),
    ("server", "taskBuffer"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The envelope of every method of PanDA's API v1.

    :param success: whether PanDA did what was asked.
    :param message: PanDA's words; the reason if it did not.
    :param data: what was asked for.
    :param url: address without query.
    """

    success: bool
    message: str
    data: Any
    url: str


# --- envelope and HTTP --------------------------------------------------------------------------------------


def plain_text(text: str, limit: int = TEXT_LIMIT) -> str:
    """Return one line of readable text of what may be HTML, a traceback or hold a token, whatever else it holds."""
    text = re.sub(r"(?is)<(script|style)\b.*?(?:</\1>|\Z)", " ", text[:_LOOKED_AT])
    text = re.sub(r"(?s)<!?/?[a-zA-Z][^<>]*>", " ", text)
    try:
        text = html.unescape(text)
    except ValueError:  # a number of more digits than Python reads
        text = text.replace("&#", " ")
    # Control characters would act on a terminal, NUL and halves of surrogate pairs stop a database.
    text = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    text = _SECRETS.sub("***", text[: limit + _LONGEST_TOKEN])
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def shown(value: Any, limit: int = TEXT_LIMIT) -> str:
    """Return one line of readable text of any decoded JSON."""
    try:
        return plain_text(value if isinstance(value, str) else str(value), limit)
    except (RecursionError, ValueError):  # nested deeply, or a number of more digits than Python writes
        return f"a {type(value).__name__} that cannot be shown"


def decoded(text: str | bytes) -> Any:
    """Return decoded JSON.

    :raises ValueError: it is none, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_answer(status: int, body: bytes, url: str, *, retry_after: float | None = None) -> Answer:
    """Return the envelope in an HTTP answer.

    :param status: HTTP status.
    :param body: body, decompressed.
    :param url: address without query and credentials.
    :param retry_after: seconds after which the server wants to be asked again, if it says so.
    :raises GridAuthError: the credentials are missing or not accepted.
    :raises GridServerError: HTTP 5xx, or no JSON envelope.
    :raises GridRefusedError: any other refusal by HTTP status.
    """
    if status != 200:
        raise http_error(status, body, url, retry_after=retry_after)
    try:
        envelope = decoded(body)
    except ValueError:
        raise GridServerError(_no_json(body, url), url=url, status=status) from None
    if not isinstance(envelope, dict) or not isinstance(envelope.get("success"), bool):
        raise GridServerError(_no_json(body, url), url=url, status=status)
    message = envelope.get("message")
    answer = Answer(
        success=envelope["success"],
        message=message if isinstance(message, str) else "" if message is None else shown(message),
        data=envelope.get("data"),
        url=url,
    )
    if not answer.success and _NO_CREDENTIALS in answer.message:
        raise GridAuthError(
            f"PanDA at {url} wants credentials and got none that it knows. "
            "Set auth and the token or proxy of the connection",
            url=url,
        )
    return answer


def http_error(status: int, body: bytes, url: str, *, retry_after: float | None = None) -> GridError:
    """Return the error for an HTTP status other than 200."""
    said = plain_text(body[:_LOOKED_AT].decode("utf-8", "replace"))
    quoted = f": {said}" if said else ""
    if status == 403 and "is forbidden" in said and "method" in said:
        return GridRefusedError(
            f"PanDA at {url} does not know this method{quoted}. The server must be panda-server 1.0 or newer", url=url
        )
    if status in (401, 403):
        return GridAuthError(
            f"PanDA at {url} does not accept the credentials (HTTP {status}){quoted}. "
            "Renew the token or proxy of the connection, and check its VO",
            url=url,
        )
    if 300 <= status < 400:
        return GridServerError(
            f"{url} redirects (HTTP {status}) instead of answering. "
            "Check the server URL: a sign-in page or a proxy may stand before it",
            url=url,
            status=status,
        )
    if status >= 500 or status in (408, 429) or body.lstrip()[:1] == b"<":
        return GridServerError(
            f"PanDA at {url} answers with HTTP {status}{quoted}. "
            "It often passes by itself; if not, check the server URL or ask its operators",
            url=url,
            status=status,
            retry_after=retry_after,
        )
    return GridRefusedError(f"PanDA at {url} refuses the call (HTTP {status}){quoted}. Check the server URL", url=url)


def _no_json(body: bytes, url: str) -> str:
    if body.lstrip()[:1] == b"<":
        title = re.search(rb"(?is)<title[^<>]*>([^<]*)", body[:_LOOKED_AT])
        named = f" ({plain_text(title.group(1).decode('utf-8', 'replace'), 80)!r})" if title else ""
        return (
            f"{url} answers with an HTML page{named} instead of JSON. "
            "Check the server URL: a proxy or another service answers there"
        )
    what = "an empty body" if not body.strip() else "no complete JSON envelope"
    return f"{url} answers with {what}. Try again; if it stays, check the server URL"


def granted(answer: Answer) -> Any:
    """Return the data of a successful answer.

    :raises TaskNotFoundError: PanDA does not know the task (yet).
    :raises GridRefusedError: PanDA refused, with its own words.
    """
    if answer.success:
        return answer.data
    raise refused(answer)


def refused(answer: Answer) -> GridRefusedError:
    """Return the error for an envelope with ``success`` false."""
    said = plain_text(answer.message) or "no reason given"
    if "not found" in said.lower() and "task" in said.lower():
        return TaskNotFoundError(
            f"PanDA does not know the task: {said}. Normal for a minute after submission", url=answer.url
        )
    return GridRefusedError(f"PanDA at {answer.url} refused: {said}", url=answer.url)


def _rows(data: Any, url: str) -> list[dict[str, Any]]:
    if data is None:
        return []
    if not isinstance(data, list):
        raise GridServerError(f"{url} answers with {type(data).__name__} where a list belongs", url=url, status=200)
    return [row for row in data if isinstance(row, dict)]


# --- commands -----------------------------------------------------------------------------------------------


def submitted(answer: Answer) -> int:
    """Return the jediTaskID of an answer to task/submit, whether the task is new or known by its unique name.

    Codes 1 (queued), 2 (running) and 3 (taken up again) name the known task in the message
    (facts/panda.md section 3).

    :raises GridRefusedError: PanDA did not take the task.
    """
    found = _TASK_ID.search(answer.message)
    known = answer.data in (1, 2, 3) and type(answer.data) is int
    if found and int(found.group(1)) and (answer.success or known):
        return int(found.group(1))
    if answer.success and type(answer.data) is int and 0 < answer.data < 2**63:
        return answer.data
    if answer.success:
        raise GridServerError(f"{answer.url} took the task without telling its id", url=answer.url, status=200)
    said = plain_text(answer.message) or "no reason given"
    remedy = {
        4: "Check VO, queue and the other fields of the connection",
        10: "Wait until some of your tasks have ended, or kill them",
        11: "The parent task is gone",
    }.get(answer.data if isinstance(answer.data, int) else -1, "Correct what it names and submit again")
    raise GridRefusedError(f"PanDA refused the task: {said}. {remedy}", url=answer.url)


class KillOutcome(Enum):
    """What became of a kill."""

    REGISTERED = "registered"
    """PanDA will kill the task within minutes."""
    ENDED = "ended"
    """Nothing to kill: the task had ended, or is on its way to an end."""


def killed(answer: Answer) -> KillOutcome:
    """Return what became of a kill.

    :raises TaskNotFoundError: the task is unknown yet, or of another owner: PanDA says the same for both.
    :raises GridRefusedError: PanDA refused for another reason.
    """
    code = answer.data if type(answer.data) is int else None
    if answer.success and code in (0, None):
        return KillOutcome.REGISTERED
    if code == 4 or "command is not accepted" in answer.message:
        return KillOutcome.ENDED
    raise _command_error(answer)


def retried(answer: Answer) -> None:
    """Check an answer to task/retry, whose ``success`` is always true for an owned task.

    :raises TaskNotFoundError: the task is unknown yet, or of another owner.
    :raises GridRefusedError: PanDA does not retry the task in its present state.
    """
    if not (answer.success and answer.data == 0):
        raise _command_error(answer)


def _command_error(answer: Answer) -> GridRefusedError:
    said = plain_text(answer.message) or "no reason given"
    if _NOT_OWNER in said or "not found" in said:
        return TaskNotFoundError(f"PanDA does not know the task yet, or it is another user's: {said}", url=answer.url)
    return GridRefusedError(f"PanDA refused the command: {said}", url=answer.url)


class Stored(Enum):
    """What became of an upload to the cache."""

    NEW = "new"
    PRESENT = "present"
    """A file of that name is there; the name holds the hash of the content."""
    UNCERTAIN = "uncertain"
    """PanDA could not register the file, but may have stored it (facts/panda.md section 3)."""


def stored(answer: Answer) -> Stored:
    """Return what became of an upload.

    :raises GridRefusedError: PanDA refused the file.
    """
    if answer.success:
        return Stored.NEW
    if "cannot overwrite" in answer.message:
        return Stored.PRESENT
    if "failed to register sandbox" in answer.message:
        return Stored.UNCERTAIN
    raise refused(answer)


def user_secrets(answer: Answer) -> dict[str, str]:
    """Return the user's secrets from an answer to creds/get_user_secrets (JSON text inside JSON)."""
    if answer.data is None and (answer.success or "no secrets" in answer.message.lower()):
        return {}
    data = granted(answer)
    try:
        secrets = decoded(data) if isinstance(data, str) else data
    except ValueError:
        secrets = None
    if not isinstance(secrets, dict):
        raise GridServerError(f"{answer.url} answers with secrets that are no JSON object", url=answer.url, status=200)
    return {str(key): value if isinstance(value, str) else _encoded(value) for key, value in secrets.items()}


def _encoded(value: Any) -> str:
    try:
        return json.dumps(value)
    except (RecursionError, ValueError):
        return ""


# --- tasks and jobs -----------------------------------------------------------------------------------------


def task_status(row: Mapping[str, Any]) -> TaskStatus:
    """Return what a row of task/get_tasks_detailed_info_since or task/get_detailed_info says of a task."""
    status = word(row.get("status"))
    dialog = row.get("errorDialog")
    return TaskStatus(
        task_id=_integer(row.get("jediTaskID")) or 0,
        name=word(row.get("taskName")),
        status=status,
        phase=phase_of(status),
        error=(plain_text(dialog, 1000) or None) if isinstance(dialog, str) else None,
        jobs_total=_integer(row.get("nFiles")),
        jobs_finished=_integer(row.get("nFilesFinished")),
        jobs_failed=_integer(row.get("nFilesFailed")),
        created=_unix_time(row.get("creationDate")),
    )


def task_statuses(answer: Answer, **wanted: str) -> list[TaskStatus]:
    """Return the tasks of a listing.

    :param wanted: filters that were sent; checked again, for a server ignores those that it does not know.
    """
    return [
        task_status(row)
        for row in _rows(granted(answer), answer.url)
        if _integer(row.get("jediTaskID")) is not None and all(row.get(name) == value for name, value in wanted.items())
    ]


def brief_statuses(answer: Answer, **wanted: str) -> list[TaskStatus]:
    """Return the tasks of an answer to task/get_tasks_modified_since: a table of rows.

    :param wanted: what the rows must have.
    """
    rows = granted(answer)
    return task_statuses(replace(answer, data=list(rows.values()) if isinstance(rows, dict) else rows), **wanted)


def one_task(answer: Answer, task_id: int) -> TaskStatus:
    """Return the task of an answer to task/get_detailed_info.

    :raises TaskNotFoundError: PanDA does not know it.
    """
    row = granted(answer)
    if not isinstance(row, dict) or _integer(row.get("jediTaskID")) != task_id:
        raise TaskNotFoundError(f"PanDA does not know task {task_id} (yet)", url=answer.url)
    return task_status(row)


def job_ids(answer: Answer) -> list[int]:
    """Return the sorted PandaIDs of a task, of all attempts."""
    data = granted(answer)
    if not isinstance(data, list):
        data = []
    return sorted({number for number in map(_integer, data) if number is not None})


def dataset_names(answer: Answer) -> list[str]:
    """Return the names in an answer to task/get_datasets_and_files, each once."""
    found = (row.get("dataset") for row in _rows(granted(answer), answer.url))
    names = (word(dataset.get("name")) for dataset in found if isinstance(dataset, Mapping))
    return list(dict.fromkeys(filter(None, names)))


def job_records(answer: Answer) -> list[JobRecord]:
    """Return the jobs of an answer to job/get_description; unknown ones (null) are left out."""
    return [job_record(row) for row in _rows(granted(answer), answer.url) if _integer(row.get("PandaID")) is not None]


def job_record(row: Mapping[str, Any]) -> JobRecord:
    """Return what a job description says of one attempt of a job."""
    payload_exit = _integer(row.get("transExitCode"))
    if not payload_exit:
        payload_exit = _integer(row.get("exeErrorCode")) or payload_exit
    return JobRecord(
        panda_id=_integer(row.get("PandaID")) or 0,
        job=_job_index(row.get("Files")),
        attempt=_integer(row.get("attemptNr")) or 0,
        status=word(row.get("jobStatus")),
        site=_text(row.get("computingSite")),
        host=_text(row.get("modificationHost")),
        exit_code=payload_exit,
        diagnostics=_diagnostics(row),
        report=_report(row.get("metadata")),
    )


def _job_index(files: Any) -> int | None:
    for file in files if isinstance(files, Sequence) and not isinstance(files, str) else ():
        if isinstance(file, Mapping) and word(file.get("type")).endswith("input"):
            key = _JOB_KEY.match(_plain_key(word(file.get("lfn"))))
            if key:
                return int(key.group(1))
    return None


def _plain_key(lfn: str) -> str:
    """Return an input's name as we gave it: through iDDS it comes as base64 of a JSON text."""
    name = lfn.rpartition(":")[2]
    try:
        key = decoded(base64.b64decode(name, validate=True))
    except ValueError:
        return lfn
    return key if isinstance(key, str) else lfn


def _diagnostics(row: Mapping[str, Any]) -> str | None:
    parts = []
    for label, prefix in _DIAGNOSTICS:
        code, said = _integer(row.get(f"{prefix}ErrorCode")), _text(row.get(f"{prefix}ErrorDiag"))
        if code or said:
            parts.append(f"{label} {code or 0}" + (f": {plain_text(said)}" if said else ""))
    return "; ".join(parts) or None


def _report(metadata: Any) -> dict[str, Any] | None:
    if isinstance(metadata, str) and metadata.lstrip().startswith("{"):
        try:
            metadata = decoded(metadata)
        except ValueError:
            return None
    return metadata if isinstance(metadata, dict) else None


def _integer(value: Any) -> int | None:
    """Return a number that may come as a number, as text, or as the text NULL; None for what no database holds."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = int(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < 2**63 else None


def word(value: Any) -> str:
    """Return a name or a state, which is text of one line wherever it is known; anything else is shown as such."""
    if isinstance(value, str) and value.isprintable() and len(value) <= _LONGEST_NAME:
        return value
    return shown(value, _LONGEST_NAME) if value else ""


def _unix_time(value: Any) -> float | None:
    """Return a moment as Unix time; PanDA writes ``{"__datetime__": "2026-11-22T17:34:16.014908"}``, in UTC."""
    text = value.get("__datetime__") if isinstance(value, Mapping) else value
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value and value != "NULL" else None
