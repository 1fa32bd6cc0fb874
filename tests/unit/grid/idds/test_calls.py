"""What is sent to iDDS, directly and through the relay, against captured exchanges, and what is made of answers."""

from __future__ import annotations

import asyncio
import gzip
import json
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_panda.exceptions import (
    GridAuthError,
    GridError,
    GridRefusedError,
    GridServerError,
    GridUnreachableError,
)
from airflow_provider_panda.grid.endpoint import AuthKind, PandaEndpoint
from airflow_provider_panda.grid.idds.calls import Command, Direct, Relayed
from airflow_provider_panda.grid.idds.client import AsyncIddsClient, IddsClient
from airflow_provider_panda.grid.idds.endpoint import IddsEndpoint
from airflow_provider_panda.grid.session import Reply
from tests.stack.scripted_panda import ScriptedPanda, body, scripted_panda, status
from tests.unit.grid.idds.samples import exchange, refusals, sample

RELAY = "/server/panda/relay_idds_command"
PROPERTIES = {"name": "r", "request_metadata": {"workflow": {"class": "Workflow"}}}
WORK = {"name": "w", "transform_metadata": {"work": {"class": "Work"}}}


@pytest.fixture
def server() -> Iterator[ScriptedPanda]:
    with scripted_panda() as running:
        yield running


def client(server: ScriptedPanda, *, relayed: bool = False, **fields: Any) -> AsyncIddsClient:
    fields = {"auth": AuthKind.TOKEN, "token": "opaque", "vo": "wlcg", **fields}
    panda = PandaEndpoint(url=server.url if relayed else "http://127.0.0.1:1", timeout=10, **fields)
    return AsyncIddsClient(IddsEndpoint(panda=panda, host=None if relayed else f"{server.url}/idds/"))


def data(value: Any) -> Any:
    """An answer in the form with ``json_outputs``."""
    return body(json.dumps({"data": value, "error": None, "status": 200}))


Act = Callable[[AsyncIddsClient], Awaitable[Any]]

CALLS: dict[str, tuple[Act, tuple[str, str], Any]] = {
    "ping": (lambda c: c.ping(), ("GET", "/ping"), None),
    "add_request": (lambda c: c.add_request(PROPERTIES), ("POST", "/request"), 1),
    "add_transform": (lambda c: c.add_transform(1, WORK), ("POST", "/transform/1"), 1),
    "close": (lambda c: c.close_request(1), ("PUT", "/request/close/1/null"), None),
    "messages": (
        lambda c: c.messages(1, transform_id=1, internal_id="2ad64bc5"), ("GET", "/message/1/null/1/2ad64bc5"), [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
async def test_direct_calls_are_those_that_a_real_idds_answered(server: ScriptedPanda, name: str) -> None:
    act, (method, path), expected = CALLS[name]
    seen_then = exchange(method, path)
    server.on(f"/idds{path}", data(seen_then["response_body"]))
    assert await act(client(server)) == expected
    (seen,) = server.seen
    assert (seen.method, seen.path, seen.query) == (method, f"/idds{path}", {"json_outputs": ["true"]})
    sent = json.loads(seen.body) if seen.body else None
    assert sent == {"add_request": PROPERTIES, "add_transform": WORK}.get(name)


async def test_a_listing_is_one_call_with_transforms(server: ScriptedPanda) -> None:
    path = "/idds/request/8/null/False/False/False/True"
    server.on(path, data(sample("GET_request_transform.json")))
    found = await client(server).request(8)
    assert found is not None
    assert found.request_id == 8
    assert [seen.path for seen in server.seen] == [path]
    server.on(path, data([]))
    assert await client(server).request(8) is None


async def test_names_are_listed_by_pattern(server: ScriptedPanda) -> None:
    server.on("/idds/request/name/airflow-*-x-g*", data({"airflow-a-x-g0-k": 3}))
    assert await client(server).request_ids("airflow-*-x-g*") == {"airflow-a-x-g0-k": 3}


async def test_commands_that_idds_refuses_at_http_200(server: ScriptedPanda) -> None:
    answered = exchange("PUT", "/request/abort/999999/null")["response_body"]
    server.on("/idds/request/abort/999999/null", data(answered))
    with pytest.raises(GridRefusedError, match="No match requests"):
        await client(server).abort_request(999999)


async def test_headers_show_who_asks(server: ScriptedPanda) -> None:
    server.on("/idds/ping", data({"Status": "OK"}))
    await client(server).ping()
    await client(server, auth=AuthKind.NONE, token=None, vo="").ping()
    with_token, without = (seen.headers for seen in server.seen)
    assert (with_token["X-IDDS-Auth-Type"], with_token["X-IDDS-Auth-VO"]) == ("oidc", "wlcg")
    assert with_token["X-IDDS-Auth-Token"] == "opaque"
    assert without["X-IDDS-Auth-Type"] == "x509_proxy"
    assert not {"X-IDDS-Auth-Token", "X-IDDS-Auth-VO"} & set(without)


def test_credentials_of_the_environment_are_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OIDC_AUTH_ID_TOKEN", "IDDS_OIDC_TOKEN", "PANDA_AUTH_ID_TOKEN"):
        monkeypatch.setenv(name, "of the environment")
    request = Direct("http://idds").request(Command(direct=("ping", {}), relayed=("ping", {})))
    assert "of the environment" not in repr(request)
    assert not {name for name in request.headers if "auth" in name.lower()}


def test_a_function_that_sends_nothing_is_told() -> None:
    command = Command(direct=("enable_json_outputs", {}), relayed=("x", {}))
    with pytest.raises(GridRefusedError, match="made no request of enable_json_outputs"):
        Direct("http://idds").request(command)


# --- the relay ------------------------------------------------------------------------------------------------


def relayed_answer(value: Any, *, done: bool = True) -> Any:
    return body(json.dumps([done, value]))


COMMANDS: dict[str, tuple[Act, str, dict[str, Any], Any, Any]] = {
    "ping": (lambda c: c.ping(), "ping", {}, {"Status": "OK"}, None),
    "add_request": (lambda c: c.add_request(PROPERTIES), "submit", {"workflow": {"class": "Workflow"}}, 5, 5),
    "add_transform": (
        lambda c: c.add_transform(5, WORK), "submit_work", {"request_id": 5, "work": {"class": "Work"}}, 6, 6,
    ),
    "request": (lambda c: c.request(5), "get_requests", {"request_id": 5, "with_detail": True}, [], None),
    "request_ids": (lambda c: c.request_ids("a*"), "get_request_id_by_name", {"name": "a*"}, {"ab": 5}, {"ab": 5}),
    "close": (lambda c: c.close_request(5), "close", {"request_id": 5}, [[0, {"status": 0, "message": "ok"}]], None),
    "abort": (lambda c: c.abort_request(5), "abort", {"request_id": 5}, [[0, {"status": 0, "message": "ok"}]], None),
    "messages": (
        lambda c: c.messages(5), "get_messages", {"request_id": 5, "transform_id": "null", "internal_id": "null"},
        [True, [{"headers": {}, "body": {"a": 1}}]], [{"a": 1}],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
async def test_relayed_commands_are_compressed_and_of_the_manager(server: ScriptedPanda, name: str) -> None:
    act, command, arguments, answer, expected = COMMANDS[name]
    server.on(RELAY, relayed_answer(answer))
    assert await act(client(server, relayed=True)) == expected
    (seen,) = server.seen
    assert (seen.method, seen.headers["Content-Type"]) == ("POST", "application/json")
    assert "Content-Encoding" not in seen.headers  # the server unpacks what looks like gzip, and only without it
    assert seen.headers["Authorization"] == "Bearer opaque"
    assert not {header for header in seen.headers if header.startswith("X-IDDS")}
    sent = json.loads(gzip.decompress(seen.body))
    assert (sent.pop("command_name"), sent.pop("manager")) == (command, True)
    assert json.loads(sent.pop("kwargs", "{}")) == arguments
    assert sent == {}


def test_the_ping_is_the_captured_one() -> None:
    (captured,) = [
        each
        for each in json.loads(
            (Path(__file__).parents[3] / "samples/panda/server.panda.relay_idds_command.json").read_text()
        )
        if each["response_body"] == [True, {"Status": "OK"}]
    ]
    request = Relayed("https://panda:25443/api").request(Command(direct=("ping", {}), relayed=("ping", {})))
    assert request.url == f"https://panda:25443{captured['path']}"
    assert request.content is not None
    assert "[gzip]" + gzip.decompress(request.content).decode() == captured["request_body"]


# --- errors ---------------------------------------------------------------------------------------------------


def reply(code: int = 200, text: str = "") -> Reply:
    return Reply(status=code, body=text.encode(), url="http://idds/x")


@pytest.mark.parametrize(
    "captured", refusals(), ids=lambda each: f"{each['method']} {each['path']} {each['status'][:3]}"
)
def test_captured_refusals_without_a_body(captured: dict[str, Any]) -> None:
    code = int(captured["status"][:3])
    kind = {401: GridAuthError, 500: GridServerError}.get(code, GridRefusedError)
    with pytest.raises(kind, match=f"HTTP {code}"):
        Direct("http://idds").read(reply(code))


@pytest.mark.parametrize(
    "captured", refusals(), ids=lambda each: f"{each['method']} {each['path']} {each['status'][:3]}"
)
def test_the_same_refusals_with_json_outputs(captured: dict[str, Any]) -> None:
    error = captured["exception_headers"]
    said = json.dumps({"data": None, "error": error, "status": int(captured["status"][:3])})
    with pytest.raises(GridRefusedError) as refused:
        Direct("http://idds").read(reply(200, said))
    text = error["ExceptionMessage"]
    words = json.loads(text)["msg"] if text.startswith("{") else text
    assert " ".join(words.split()).rstrip(".")[:60] in str(refused.value)
    if "no permission" in text:
        assert "another user's" in str(refused.value)


@pytest.mark.parametrize(
    ("code", "text", "kind", "says"),
    [
        (200, "<html><h1>Wait</h1></html>", GridServerError, "no JSON: Wait"),
        (200, "{" * 100_000, GridServerError, "no JSON"),
        (502, "<html><title>502 Bad Gateway</title></html>", GridServerError, "HTTP 502: 502 Bad Gateway"),
        (403, "", GridAuthError, r"HTTP 403\)"),
        (404, "<html>none</html>", GridServerError, "HTTP 404: none"),
        (429, "", GridServerError, "HTTP 429"),
        (302, "", GridServerError, "HTTP 302"),
        (500, '{"not": "ours"}', GridServerError, "HTTP 500"),
        (401, '{"data": null, "error": {"ExceptionClass": "E", "ExceptionMessage": "no"}, "status": 401}',
         GridRefusedError, "refused: no"),
        (200, '{"data": null, "error": "plain words", "status": 400}', GridRefusedError, "refused: plain words"),
        (200, '{"data": null, "error": {"ExceptionMessage": "{broken"}, "status": 400}', GridRefusedError, "{broken"),
        (200, '{"data": null, "error": {"ExceptionMessage": "[1]"}, "status": 400}', GridRefusedError, r"\[1\]"),
        (200, '{"data": null, "error": {"ExceptionMessage": null}, "status": 400}', GridRefusedError, "None"),
    ],
)  # fmt: skip
def test_direct_errors(code: int, text: str, kind: type[GridError], says: str) -> None:
    with pytest.raises(kind, match=says) as raised:
        Direct("http://idds").read(reply(code, text))
    assert "<" not in str(raised.value)


async def test_the_reason_in_a_header_is_told(server: ScriptedPanda) -> None:
    (refused, *_) = [each for each in refusals() if each["status"].startswith("401")]

    def script(handler: Any, seen: Any) -> None:
        handler.send_response(401)
        for name, value in refused["exception_headers"].items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    server.on("/idds/ping", script)
    with pytest.raises(GridAuthError, match="Authentication method none is not supported"):
        await client(server).ping()


async def test_an_idds_that_is_away_is_not_called_panda(server: ScriptedPanda) -> None:
    endpoint = IddsEndpoint(panda=PandaEndpoint(url=server.url, timeout=10), host="http://127.0.0.1:1")
    with pytest.raises(GridUnreachableError, match=r"^iDDS at http://127.0.0.1:1/ping does not answer"):
        await AsyncIddsClient(endpoint).ping()


def test_direct_answers() -> None:
    way = Direct("http://idds")
    assert way.read(reply(200, '{"data": [1], "error": null, "status": 200}')) == [1]
    assert way.read(reply(200, '{"request_id": 1}')) == {"request_id": 1}  # a version without json_outputs
    assert way.read(reply(200, "")) is None  # an unknown transform


@pytest.mark.parametrize(
    ("code", "text", "kind", "says"),
    [
        (200, '[false, "nosuchcmd is not a command of iDDS ClientManager"]', GridRefusedError, "not a command of iDDS"),
        (200, '[true, [false, "User X has no permission to get messages"]]', GridRefusedError, "idds_host"),
        (200, '[true, [-1, "No section: \'rest\'"]]', GridRefusedError, "knows no iDDS"),
        (200, '[false, "failed: Cannot find x509 proxy"]', GridAuthError, "no credentials for iDDS"),
        (200, '[true, [false, "OIDC token expired"]]', GridAuthError, "no credentials for iDDS"),
        (200, '{"success": false, "message": "SSL secure connection is required", "data": null}',
         GridAuthError, "SSL secure"),
        (200, '{"success": true}', GridServerError, "no pair"),
        (200, "[1, 2, 3]", GridServerError, "no pair"),
        (200, '["true", 1]', GridRefusedError, "refused: 1"),
        (200, "null", GridServerError, "no pair"),
        (200, "", GridServerError, "no pair"),
        (200, "<html>login</html>", GridServerError, "no JSON: login"),
        (500, "relay_idds_command() missing 1 required argument: 'command_name'", GridServerError, "missing 1"),
        (403, "", GridAuthError, "HTTP 403"),
        (404, "", GridRefusedError, "HTTP 404"),
    ],
)  # fmt: skip
def test_relayed_errors(code: int, text: str, kind: type[GridError], says: str) -> None:
    with pytest.raises(kind, match=says):
        Relayed("http://panda").read(reply(code, text))


def test_relayed_values_that_look_like_errors_are_values() -> None:
    way = Relayed("http://panda")
    assert way.read(reply(200, "[true, 7]")) == 7
    assert way.read(reply(200, "[true, [false, 7]]")) == [False, 7]
    assert way.read(reply(200, '[true, [true, "x"]]')) == [True, "x"]
    assert way.read(reply(200, "[true, []]")) == []


@pytest.mark.parametrize("relayed", [False, True])
async def test_a_401_with_an_empty_body_is_about_the_credentials(server: ScriptedPanda, relayed: bool) -> None:
    server.on(RELAY, status(401))
    server.on("/idds/ping", status(401))
    with pytest.raises(GridAuthError, match="Check auth and vo"):
        await client(server, relayed=relayed).ping()


async def test_ids_that_are_missing_are_told(server: ScriptedPanda) -> None:
    server.on("/idds/request", data({"other": 1}))
    with pytest.raises(GridRefusedError, match="gave no request_id"):
        await client(server).add_request(PROPERTIES)
    server.on(RELAY, relayed_answer(None))
    with pytest.raises(GridRefusedError, match="gave no transform_id"):
        await client(server, relayed=True).add_transform(1, WORK)


@pytest.mark.parametrize("relayed", [False, True])
async def test_no_class_that_an_answer_names_is_imported(
    server: ScriptedPanda, relayed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "booby_trap.py").write_text(
        f"import pathlib\npathlib.Path({str(tmp_path / 'sprung')!r}).touch()\nclass Trap:\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    trap = {"class": "Trap", "module": "booby_trap", "attributes": {"_name_": "Transforming", "x": 1}}
    row = {"request_id": 5, "name": "n", "status": trap, "transform_id": 1, "transform_status": trap, "errors": trap}
    server.on(RELAY, relayed_answer([row]))
    server.on("/idds/request/5/null/False/False/False/True", data([row]))
    server.on("/idds/message/5/null/null/null", data([{"headers": trap, "body": trap}]))
    found = await client(server, relayed=relayed).request(5)
    assert found is not None
    assert (found.status, found.transforms[0].status) == ("Transforming", "Transforming")
    if not relayed:
        assert await client(server).messages(5) == [trap]
    assert "booby_trap" not in sys.modules
    assert not (tmp_path / "sprung").exists()


# --- the clients ----------------------------------------------------------------------------------------------


async def test_a_large_answer_is_read_as_a_small_one(server: ScriptedPanda) -> None:
    names = {f"airflow-{'x' * 100}-{number}": number for number in range(1000)}
    server.on("/idds/request/name/airflow-*", data(names))
    assert await client(server).request_ids("airflow-*") == names


async def test_a_closed_client_opens_again(server: ScriptedPanda) -> None:
    server.on("/idds/ping", data({"Status": "OK"}))
    asked = client(server)
    await asked.aclose()
    await asked.ping()
    await asked.aclose()
    await asked.ping()
    assert len(server.seen) == 2


async def test_new_credentials_are_taken_by_the_next_call(server: ScriptedPanda) -> None:
    server.on("/idds/ping", data({"Status": "OK"}))
    asked = client(server)
    await asked.ping()
    asked.adopt(PandaEndpoint(url="http://elsewhere", auth=AuthKind.TOKEN, token="new", vo="atlas"))
    await asked.ping()
    assert [seen.headers["X-IDDS-Auth-Token"] for seen in server.seen] == ["opaque", "new"]
    assert [seen.headers["X-IDDS-Auth-VO"] for seen in server.seen] == ["wlcg", "atlas"]
    assert asked.endpoint.host == f"{server.url}/idds/"
    assert asked.endpoint.panda.url == "http://127.0.0.1:1"


def test_threads_share_a_client(server: ScriptedPanda) -> None:
    server.on("/idds/request", data({"request_id": 1}))
    server.on("/idds/transform/1", data({"transform_id": 2}))
    server.on("/idds/request/1/null/False/False/False/True", data([{"request_id": 1, "name": "n"}]))
    server.on("/idds/request/name/x", data({"x": 1}))
    for command in ("close", "abort"):
        server.on(f"/idds/request/{command}/1/null", data([[0, {"status": 0}]]))
    server.on("/idds/message/1/null/2/k", data([{"body": {"a": 1}}]))
    server.on("/idds/ping", data({}))
    endpoint = IddsEndpoint(panda=PandaEndpoint(url="http://127.0.0.1:1", timeout=10), host=f"{server.url}/idds")
    asked = IddsClient(endpoint)
    problems: list[BaseException] = []

    def all_calls() -> None:
        try:
            asked.ping()
            assert asked.add_request(PROPERTIES) == 1
            assert asked.add_transform(1, WORK) == 2
            found = asked.request(1)
            assert found is not None
            assert found.name == "n"
            assert asked.request_ids("x") == {"x": 1}
            asked.close_request(1)
            asked.abort_request(1)
            assert asked.messages(1, transform_id=2, internal_id="k") == [{"a": 1}]
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=all_calls) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []
    assert len(server.seen) == 4 * 8


def test_one_loop_after_another(server: ScriptedPanda) -> None:
    server.on("/idds/ping", data({}))
    asked = client(server)
    for _ in range(2):
        asyncio.run(asked.ping())
    assert len(server.seen) == 2


def test_what_the_service_is_called() -> None:
    panda = PandaEndpoint(url="http://panda", token="secret", auth=AuthKind.TOKEN)
    direct, behind = IddsEndpoint(panda=panda, host="http://idds"), IddsEndpoint(panda=panda)
    assert (direct.relayed, direct.name) == (False, "iDDS at http://idds")
    assert (behind.relayed, behind.name) == (True, "iDDS behind PanDA at http://panda")
    assert "secret" not in repr(direct)
    assert len({direct, behind, IddsEndpoint(panda=panda)}) == 2
