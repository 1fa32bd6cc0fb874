"""Whatever a server answers, it is read, or a GridError says what is wrong: nothing else comes out, and nothing hangs.

Arbitrary JSON, and captured answers of the real services with one place after another made hostile.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_panda.exceptions import GridError, GridServerError
from airflow_provider_panda.grid import answers
from airflow_provider_panda.grid.idds import answers as idds
from airflow_provider_panda.grid.idds.calls import Direct, Relayed
from airflow_provider_panda.grid.outcome import CallPolicy, Tally
from airflow_provider_panda.grid.reports import verified_messages, verified_results
from airflow_provider_panda.grid.session import Reply
from airflow_provider_panda.payload.envelope import BODY_KEY
from tests.stack.faulty_proxy import APACHE_PAGE, NGINX_PAGE

SAMPLES = Path(__file__).parents[2] / "samples"
URL = "https://panda.example/x"
KEY, TASK_KEY = b"k" * 32, "afabcdefghijklmnopqr"


def nested(depth: int) -> Any:
    value: Any = 1
    for number in range(depth):
        value = [value] if number % 2 else {"body": value}
    return value


HOSTILE: list[Any] = [
    None, True, 0, -1, 10**40, 2**63, 1e308, float("nan"), float("inf"), "", "NULL", "9" * 5000, "²", "\ud800",
    "a\x00b\x1b[2J", "&#" + "9" * 5000 + ";", "<script" * 3000, "<a " * 4000, "eyJ" * 4000, "j" + "9" * 5000,
    "jediTaskID=" + "9" * 5000, "task not found", "[" * 5000, '{"a":' * 5000, [], {}, [None], [[]], {"attributes": []},
    nested(60), nested(900), ["x"] * 1000, {BODY_KEY: nested(900)}, {BODY_KEY: {"version": nested(900)}},
    {BODY_KEY: {"version": 1, "signed": "\ud800", "signature": "\ud800"}},
]  # fmt: skip
"""What a faulty server, a proxy or somebody hostile may put in any place."""

names = st.sampled_from(
    ["success", "message", "data", "error", "status", "jediTaskID", "taskName", "errorDialog", "PandaID", "Files",
     "lfn", "type", "metadata", "attemptNr", "exeErrorCode", "exeErrorDiag", "dataset", "name", "request_id",
     "transform_id", "transform_status", "attributes", "_name_", "errors", "body", "ExceptionMessage", "msg", BODY_KEY]
)  # fmt: skip
anything = st.recursive(
    st.sampled_from(HOSTILE) | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=6),
    max_leaves=20,
)

PANDA: dict[str, Callable[[answers.Answer], object]] = {
    "task.submit": answers.submitted,
    "task.kill": answers.killed,
    "task.retry": answers.retried,
    "file_server.upload_cache_file": answers.stored,
    "creds.get_user_secrets": answers.user_secrets,
    "task.get_tasks_detailed_info_since": answers.task_statuses,
    "task.get_tasks_modified_since": answers.brief_statuses,
    "task.get_detailed_info": lambda answer: answers.one_task(answer, 2),
    "task.get_job_ids": answers.job_ids,
    "task.get_datasets_and_files": answers.dataset_names,
    "job.get_description": answers.job_records,
}
IDDS: dict[str, Callable[[Any], object]] = {
    "requests": lambda data: idds.requests(data, URL, asked=1),
    "ids_by_name": lambda data: idds.ids_by_name(data, URL),
    "new_id": lambda data: idds.new_id(data, "request_id", URL),
    "commanded": lambda data: idds.commanded(data, URL),
    "messages": lambda data: list(
        verified_messages(idds.messages(data, URL), key=KEY, task_key=TASK_KEY)
    ),
}  # fmt: skip


def tidy(value: object) -> None:
    """Check that what goes on from here can be logged, stored in a database and sent as JSON."""
    for text in texts(value):
        text.encode()
        assert "\x00" not in text


def texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from texts(entry)
    elif isinstance(value, dict):
        pass  # what a job reported, which is verified before anybody looks at it
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from texts(getattr(value, name))


def take(read: Callable[[], object]) -> object:
    """Read; a GridError is the only thing that may come instead."""
    try:
        found = read()
    except GridError as error:
        tidy(str(error))
        assert len(str(error)) < 2000  # noqa: PT017
        return None
    tidy(found)
    return found


def read_panda(body: bytes, status: int = 200) -> None:
    try:
        answer = answers.read_answer(status, body, URL)
    except GridError as error:
        tidy(str(error))
        return
    for read in PANDA.values():
        take(lambda read=read: read(answer))  # type: ignore[misc]
    tally = Tally(CallPolicy(n_jobs=3))
    records = take(lambda: answers.job_records(answer))
    for record in records if isinstance(records, list) else []:
        tally.add_record(record)
    for result in verified_results(records if isinstance(records, list) else [], key=KEY, task_key=TASK_KEY):
        tally.add(result)


def read_idds(body: bytes, status: int = 200) -> None:
    reply = Reply(status=status, body=body, url=URL)
    for way in (Direct("https://idds.example"), Relayed(URL)):
        data = take_data(way, reply)
        for read in IDDS.values():
            take(lambda read=read, data=data: read(data))  # type: ignore[misc]


def take_data(way: Direct | Relayed, reply: Reply) -> Any:
    try:
        return way.read(reply)
    except GridError as error:
        tidy(str(error))
        return None


def wire(value: Any) -> bytes | None:
    """Return JSON as a server may send it, or None if this side cannot write it."""
    try:
        return json.dumps(value).encode()
    except (RecursionError, ValueError):
        return None


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(anything, st.booleans(), anything, st.sampled_from([200, 200, 200, 302, 400, 401, 403, 404, 429, 500, 503]))
def test_any_json(value: Any, success: bool, message: Any, status: int) -> None:
    for body in (
        wire(value),
        wire({"success": success, "message": message, "data": value}),
        wire({"data": value, "error": None, "status": 0}),
        wire({"data": None, "error": {"ExceptionMessage": value}, "status": 500}),
        wire([success, value]),
    ):
        if body is not None:
            read_panda(body, status)
            read_idds(body, status)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes(body: bytes) -> None:
    for status in (200, 404, 500):
        read_panda(body, status)
        read_idds(body, status)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, entry in entries:
        yield from places(entry, (*path, key))


def changed(value: Any, path: tuple[Any, ...], hostile: Any) -> Any:
    if not path:
        return hostile
    made = copy.deepcopy(value)
    inner = made
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = hostile
    return made


PANDA_BODIES = [
    exchange["response_body"] for path in sorted(SAMPLES.glob("panda/*.json")) if path.stem in PANDA
    for exchange in json.loads(path.read_text())[:4] if isinstance(exchange["response_body"], dict)
]  # fmt: skip
IDDS_BODIES = [
    *(exchange["response_body"] for exchange in json.loads((SAMPLES / "idds/rest_exchanges.json").read_text())),
    *(
        exchange["response_body"]
        for exchange in json.loads((SAMPLES / "panda/server.panda.relay_idds_command.json").read_text())
    ),
]


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_captured_answer_with_something_hostile_in_one_place(data: st.DataObject) -> None:
    bodies, read = data.draw(st.sampled_from([(PANDA_BODIES, read_panda), (IDDS_BODIES, read_idds)]))
    value = data.draw(st.sampled_from(bodies))
    path = data.draw(st.sampled_from(list(places(value))))
    body = wire(changed(value, path, data.draw(st.sampled_from(HOSTILE))))
    if body is not None:
        read(body)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_captured_answer_that_was_cut_or_bent(data: st.DataObject) -> None:
    bodies, read = data.draw(st.sampled_from([(PANDA_BODIES, read_panda), (IDDS_BODIES, read_idds)]))
    body = bytearray(json.dumps(data.draw(st.sampled_from(bodies))).encode())
    body = body[: data.draw(st.integers(0, len(body)))]
    if body:
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    read(bytes(body))


@pytest.mark.parametrize("page", [NGINX_PAGE, APACHE_PAGE], ids=["nginx", "apache"])
@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_the_pages_of_proxies(page: str, status: int) -> None:
    body = page.format(status=status, phrase="Whatever").encode()
    with pytest.raises(GridServerError, match=f"HTTP {status}.*Whatever"):
        answers.read_answer(status, body, URL)
    with pytest.raises(GridServerError, match=f"HTTP {status}.*Whatever"):
        Direct(URL).read(Reply(status=status, body=body, url=URL))


@pytest.mark.parametrize("piece", ["<script>", "<style ", "<a ", "<", "eyJ", "eyJa.", "&#", "&", "Bearer ", "\ud800"])
def test_readable_text_of_a_very_long_one(piece: str) -> None:
    """Its expressions are linear, and look at its head: 60 MB are through before anybody notices."""
    text = answers.plain_text(piece * (60_000_000 // len(piece)))
    text.encode()
    assert len(text) <= answers.TEXT_LIMIT


def test_a_token_is_hidden_wherever_it_stands() -> None:
    token = "eyJhbGciOiJub25lIn0." + "a" * 3000 + ".sig"
    for before in ("", "token=", "x" * 395, "<p>"):
        assert "eyJhbGciOi" not in answers.plain_text(f"{before}{token} and more")
