"""What the REST API says: a scripted server for pages, refusals and what a login does; the real one in tests/system."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from airflow_provider_panda.exceptions import AirflowUnreadableError, ConfigurationError
from airflow_provider_panda.grid.names import task_name
from airflow_provider_panda.grid.task import task_key
from airflow_provider_panda.hooks import lookup
from airflow_provider_panda.operators.earlier import Left
from airflow_provider_panda.reaping.orphans import GridTask
from airflow_provider_panda.reaping.rest import PAGE, RestWitness, rest_witness
from airflow_provider_panda.triggers.looks import Place

OURS = "abcd"
PASSWORD = "not to be told"


class Api:
    """An API server that answers from a table."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.things: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.refuses = False
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                api.answer(self)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                good = self.path == "/auth/token" and body == {"username": "me", "password": PASSWORD}
                send(self, 201 if good else 401, {"access_token": "t"} if good else {"detail": body})

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        path, query = parts.path.removeprefix("/api/v2"), parse_qs(parts.query)
        self.asked.append(path)
        if self.refuses or handler.headers["Authorization"] != "Bearer t":
            return send(handler, 403, {"detail": "no"})
        if path in self.rows:
            rows, offset = self.rows[path], int(query["offset"][0])
            name = "dag_runs" if path.endswith("dagRuns") else "task_instances"
            return send(handler, 200, {name: rows[offset : offset + PAGE], "total_entries": len(rows)})
        if path in self.things:
            return send(handler, 200, self.things[path])
        return send(handler, 404, {"detail": "not found"})

    def witness(self, password: str = PASSWORD) -> RestWitness:
        return RestWitness(OURS, self.url, login="me", password=password)


def send(handler: BaseHTTPRequestHandler, status: int, body: Any) -> None:
    content = json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


@pytest.fixture
def api() -> Iterator[Api]:
    made = Api()
    yield made
    made.server.shutdown()
    made.server.server_close()


INSTANCES = "/dags/~/dagRuns/~/taskInstances"


def row(number: int, **more: Any) -> dict[str, Any]:
    return {
        "id": f"id {number}", "dag_id": "d", "dag_run_id": "r", "task_id": "t", "map_index": number, "end_date": None,
        "state": "deferred", **more,
    }  # fmt: skip


def task(identity: str) -> GridTask:
    key = task_key(OURS, identity)
    return GridTask(task_id=1, name=task_name("d", "t", "r", key), key=key, status="running", created=1e9)


def test_all_pages_are_read(api: Api) -> None:
    api.rows[INSTANCES] = [row(number) for number in range(2 * PAGE + 1)]
    last = task(f"id {2 * PAGE}")
    found = api.witness().attempts([last, task("nobody's")])
    assert {key: attempt.place for key, attempt in found.items()} == {last.key: Place("d", "r", "t", 2 * PAGE)}
    assert api.asked.count(INSTANCES) == 3


def test_an_earlier_try_is_known_by_the_task_state_store(api: Api) -> None:
    api.rows[INSTANCES] = [row(0), row(1)]
    earlier = task("an earlier try")
    store = "/dags/d/dagRuns/r/taskInstances/t/state-store/panda_submission"
    assert api.witness().attempts([earlier]) == {}
    note = Left(
        key=earlier.key, by=earlier.key, name=earlier.name, kind="k", server="s", through_idds=False, digest="d"
    )
    api.things[store] = {"key": "panda_submission", "value": note.to_json()}
    assert list(api.witness().attempts([earlier])) == [earlier.key]


def test_what_a_task_instance_is_now(api: Api) -> None:
    place = Place("d", "r", "t", 4)
    path = "/dags/d/dagRuns/r/taskInstances/t"
    assert api.witness().present([place]) == {}
    api.things |= {
        f"{path}/4": row(4, end_date="2026-11-26T04:00:00Z"),
        "/dags/d/dagRuns/r": {"state": "running"},
        f"{path}/xcomEntries/panda_task_key": {"value": task_key(OURS, "id 4")},
    }
    (here,) = api.witness().present([place]).values()
    assert (here.key, here.task_key, here.task_id) == (task_key(OURS, "id 4"), task_key(OURS, "id 4"), None)
    assert (here.unfinished, here.ended) == (True, 1795665600.0)


def test_runs_that_have_ended(api: Api) -> None:
    api.rows["/dags/~/dagRuns"] = [{"dag_id": "d", "dag_run_id": "r"}]
    assert api.witness().ended_runs(0.0) == [("d", "r")]


def test_a_refused_login_says_so_without_the_password(api: Api) -> None:
    with pytest.raises(AirflowUnreadableError, match="refuses the login") as caught:
        api.witness("wrong password").attempts([task("x")])
    assert "wrong password" not in str(caught.value)
    api.refuses = True
    with pytest.raises(AirflowUnreadableError, match="HTTP 403"):
        api.witness().attempts([task("x")])


def test_no_answer_is_an_error_and_not_an_empty_airflow(api: Api) -> None:
    api.server.shutdown()
    api.server.server_close()
    with pytest.raises(AirflowUnreadableError, match="does not answer"):
        api.witness().attempts([task("x")])


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"host": "http://airflow.example.org", "port": 8080}, "http://airflow.example.org:8080"),
        ({"host": "airflow.example.org", "schema": "https"}, "https://airflow.example.org"),
        ({"host": "https://airflow.example.org/base/"}, "https://airflow.example.org/base"),
    ],
)
def test_the_connection_says_where_airflow_is(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], url: str
) -> None:
    from airflow.sdk import Connection

    made = Connection(conn_id="airflow_api", conn_type="http", **fields)
    monkeypatch.setattr(lookup, "look_up", lambda conn_id: made)
    assert rest_witness("airflow_api", OURS).url == url


def test_a_connection_without_a_host_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk import Connection

    monkeypatch.setattr(lookup, "look_up", lambda conn_id: Connection(conn_id=conn_id, conn_type="http"))
    with pytest.raises(ConfigurationError, match="field host"):
        rest_witness("airflow_api", OURS)
