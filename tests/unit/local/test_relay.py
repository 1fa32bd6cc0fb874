"""The relay to iDDS: what reaches an iDDS, and what comes back, with the installed iDDS client and a scripted iDDS."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from idds.common.constants import RequestStatus, RequestType, WorkflowType
from idds.common.utils import json_dumps

from airflow_provider_panda.local import idds_client
from airflow_provider_panda.local.auth import Identity
from airflow_provider_panda.local.idds_client import ForeignClassError, decode_answer, decode_arguments, plain
from airflow_provider_panda.local.relay import IddsRelay, NoIdds, WrongHostError, command_for
from tests.stack.scripted_panda import ScriptedPanda, Seen, body, scripted_panda, stall

JANE = Identity("Jane Doe", "jdoe", "wlcg", None)
FINISHED = plain(RequestStatus.Finished)
ROW = {"request_id": 7, "workload_id": None, "scope": "s", "name": "n", "status": FINISHED, "errors": None}


@pytest.fixture
def idds(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedPanda]:
    for name in ("IDDS_OIDC_TOKEN", "OIDC_AUTH_ID_TOKEN"):
        monkeypatch.setenv(name, "not-this-token")
    monkeypatch.setenv("IDDS_HOST", "http://127.0.0.1:9")
    monkeypatch.setenv("IDDS_AUTH_TYPE", "x509_proxy")
    with scripted_panda() as server:
        yield server


def relay_to(idds: ScriptedPanda, **options: Any) -> IddsRelay:
    return IddsRelay(idds.url, token=lambda: "relay-token", vo="wlcg", **options)


async def run(
    relay: IddsRelay, command: str, /, *args: Any, manager: bool = False, json_outputs: bool = False, **kwargs: Any
) -> Any:
    return await relay.command(
        JANE,
        command,
        args=json_dumps(args) if args else None,
        kwargs=json_dumps(kwargs) if kwargs else None,
        manager=manager,
        json_outputs=json_outputs,
    )


def json_body(value: Any) -> Any:
    return body(json.dumps(value), content_type="application/json")


def idds_error(status: int, kind: str, message: str) -> Any:
    def script(handler: BaseHTTPRequestHandler, seen: Seen) -> None:
        handler.send_response(status)
        handler.send_header("ExceptionClass", kind)
        handler.send_header("ExceptionMessage", message)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return script


@pytest.mark.parametrize(
    ("command", "args", "kwargs", "method", "path", "answer", "expected"),
    [
        ("ping", [], {}, "GET", "/ping", {"Status": "OK"}, {"Status": "OK"}),
        ("add_request", [], {"name": "n", "status": RequestStatus.New}, "POST", "/request", {"request_id": 7}, 7),
        ("get_requests", [], {"request_id": 7, "with_transform": True}, "GET",
         "/request/7/null/False/False/True/False", [ROW], [ROW]),
        ("get_request_id_by_name", [], {"name": "n"}, "GET", "/request/name/n", {"n": 7}, {"n": 7}),
        ("update_request", [7, {"priority": 5}], {}, "PUT", "/request/7", {"status": 0}, {"status": 0}),
        ("close_request", [], {"request_id": 7}, "PUT", "/request/close/7/null", [[0, {}]], [[0, {}]]),
        ("abort_request", [7], {}, "PUT", "/request/abort/7/null", [[0, {}]], [[0, {}]]),
        ("add_transform", [7], {"name": "w", "token": "t"}, "POST", "/transform/7", {"transform_id": 3}, 3),
        ("get_transforms", [], {"request_id": 7}, "GET", "/transform/7", [{"s": FINISHED}], [{"s": FINISHED}]),
        ("get_messages", [], {"request_id": 7, "transform_id": 3}, "GET", "/message/7/null/3/None", [], []),
        ("get_metainfo", [], {"name": "asyncresult_config"}, "GET", "/metainfo/asyncresult_config", {"a": 1}, {"a": 1}),
    ],
)  # fmt: skip
async def test_commands_of_the_low_level_client(
    idds: ScriptedPanda,
    command: str,
    args: list[Any],
    kwargs: dict[str, Any],
    method: str,
    path: str,
    answer: Any,
    expected: Any,
) -> None:
    idds.on(path, json_body(answer))
    assert await run(relay_to(idds), command, *args, **kwargs) == (True, expected)
    (seen,) = idds.seen
    assert (seen.method, seen.path) == (method, path)
    headers = {name.lower(): value for name, value in seen.headers.items()}
    assert headers["x-idds-auth-type"] == "oidc"
    assert headers["x-idds-auth-vo"] == "wlcg"
    assert headers["x-idds-auth-token"] == "relay-token"
    assert headers["x-idds-auth-username-original"] == "Jane Doe"
    if method == "POST":
        assert seen.json == plain(kwargs)


async def test_commands_of_the_manager(idds: ScriptedPanda) -> None:
    idds.on("/ping", json_body({"Status": "OK"}))
    idds.on("/request/7/null/False/False/False/False", json_body([ROW]))
    relay = relay_to(idds)
    assert await run(relay, "ping", manager=True) == (True, {"Status": "OK"})
    success, table = await run(relay, "get_status", manager=True, request_id=7)
    assert success
    assert table.splitlines()[0].split() == ["request_id", "request_workload_id", "scope:name", "status", "errors"]
    assert "Finished" in table
    idds.on("/request/8/null/False/False/False/False", idds_error(401, "IDDSException", "not you"))
    success, outcome = await run(relay, "get_status", manager=True, request_id=8)
    assert (success, outcome[0]) == (True, False)
    assert "not you" in outcome[1]


async def test_json_outputs_are_the_managers(idds: ScriptedPanda) -> None:
    idds.on("/ping", json_body({"data": {"Status": "OK"}, "error": None, "status": 0}))
    await run(relay_to(idds), "ping", manager=True, json_outputs=True)
    await run(relay_to(idds), "ping", json_outputs=True)
    assert [seen.query for seen in idds.seen] == [{"json_outputs": ["true"]}, {}]


async def test_a_workflow_is_submitted_for_the_caller(idds: ScriptedPanda) -> None:
    from idds.iworkflow.workflow import Workflow

    workflow = Workflow(func=None, service="panda", local=True, name="relayed")
    idds.on("/request", json_body({"request_id": 11}))
    success, request_id = await run(relay_to(idds), "submit", workflow, manager=True)
    assert (success, request_id) == (True, 11)
    sent = decode_answer(idds.seen[0].body.decode())
    assert (sent["name"], sent["username"], sent["request_type"]) == ("relayed", "Jane Doe", RequestType.iWorkflowLocal)
    attributes = sent["request_metadata"]["workflow"]["attributes"]["_context"]["attributes"]
    assert attributes["_workflow_type"] == WorkflowType.iWorkflowLocal


@pytest.mark.parametrize(
    ("name", "manager", "kind"),
    [
        ("nosuchcmd", True, "ClientManager"), ("nosuchcmd", False, "Client"), ("submit", False, "Client"),
        ("get_oidc_token", False, "Client"), ("get_request_response", False, "Client"), ("upload", False, "Client"),
        ("download_logs", True, "ClientManager"), ("upload_to_cacher", True, "ClientManager"),
        ("setup_oidc_token", True, "ClientManager"), ("__class__", True, "ClientManager"), ("", False, "Client"),
    ],
)  # fmt: skip
async def test_what_is_no_command(idds: ScriptedPanda, name: str, manager: bool, kind: str) -> None:
    assert await run(relay_to(idds), name, manager=manager) == (False, f"{name} is not a command of iDDS {kind}")
    assert idds.seen == []


def test_every_offered_command_exists() -> None:
    assert [name for name in idds_client.CLIENT_COMMANDS if not hasattr(idds_client.Client, name)] == []
    assert [name for name in idds_client.MANAGER_COMMANDS if not hasattr(idds_client.ClientManager, name)] == []


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ("not json", None, "Expecting value"),
        ('{"a": 1}', None, "a JSON list is needed, not dict"),
        (None, "[1]", "a JSON object is needed, not list"),
        (None, '{"nosuch": 1}', "unexpected keyword argument 'nosuch'"),
        (None, json.dumps({"x": {"class": "Popen", "module": "subprocess", "attributes": {}}}), "subprocess.Popen"),
    ],
)
@pytest.mark.parametrize("manager", [True, False])
async def test_arguments_that_do_not_fit(
    idds: ScriptedPanda, args: str | None, kwargs: str | None, text: str, manager: bool
) -> None:
    relay = relay_to(idds)
    success, message = await relay.command(
        JANE, "get_requests", args=args, kwargs=kwargs, manager=manager, json_outputs=False
    )
    if text.startswith("unexpected") and manager:  # ClientManager makes values of its own errors
        assert (success, message[0]) == (True, False)
        message = message[1]
    else:
        assert success is False
        assert message.startswith("failed to execute command with ")
    assert text in message
    assert idds.seen == []


async def test_what_idds_refuses(idds: ScriptedPanda) -> None:
    idds.on("/transform/7", idds_error(500, "AuthenticationNoPermission", "User Jane Doe has no permission"))
    idds.on("/transform/8", idds_error(500, "system", "odd"))
    idds.on("/transform/9", body("<html>bad gateway</html>", 502))
    for request_id, text in ((7, "User Jane Doe has no permission"), (8, "odd"), (9, "bad gateway")):
        success, message = await run(relay_to(idds), "get_transforms", request_id=request_id)
        assert success is False
        assert message.startswith("failed to execute command with ")
        assert text in message


async def test_an_empty_answer_is_none(idds: ScriptedPanda) -> None:
    idds.on("/transform/7/9", body(""))
    assert await run(relay_to(idds), "get_transform", request_id=7, transform_id=9) == (True, None)


async def test_a_class_in_an_answer_is_not_made(idds: ScriptedPanda) -> None:
    stored = [{"body": {"class": "Popen", "module": "subprocess", "attributes": {"args": ["true"]}}, "type": FINISHED}]
    idds.on("/message/7/null/None/None", json_body(stored))
    assert await run(relay_to(idds), "get_messages", request_id=7) == (True, stored)


async def test_an_idds_that_is_not_there_is_an_answer_at_once(idds: ScriptedPanda) -> None:
    relay = IddsRelay("http://127.0.0.1:9", token=lambda: "t", vo="wlcg")
    success, message = await run(relay, "ping")
    assert success is False
    assert "failed to execute command with" in message
    assert "refused" in message


async def test_a_silent_idds_has_a_deadline_and_stops_nobody_else(idds: ScriptedPanda) -> None:
    idds.on("/ping", stall(idds), json_body({"Status": "OK"}))
    relay = relay_to(idds, deadline=0.5, at_once=2)
    silent = asyncio.create_task(run(relay, "ping"))
    while not idds.seen:
        await asyncio.sleep(0.01)
    assert await run(relay_to(idds), "ping") == (True, {"Status": "OK"})
    assert await silent == (False, "failed to execute command with no answer from iDDS within 0.5 s")


async def test_commands_wait_for_a_place(idds: ScriptedPanda) -> None:
    under_way, most, lock = 0, 0, threading.Lock()

    def count(handler: BaseHTTPRequestHandler, seen: Seen) -> None:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        threading.Event().wait(0.05)
        with lock:
            under_way -= 1
        body('{"Status": "OK"}')(handler, seen)

    idds.on("/ping", count)
    relay = relay_to(idds, at_once=2)
    answers = await asyncio.gather(*(run(relay, "ping") for _ in range(6)))
    assert answers == [(True, {"Status": "OK"})] * 6
    assert most == 2


async def test_a_client_that_would_exit_is_an_answer(idds: ScriptedPanda) -> None:
    def exits() -> str:
        raise SystemExit(255)

    relay = IddsRelay(idds.url, token=exits, vo="wlcg", at_once=1)
    for _ in range(2):
        assert await run(relay, "ping") == (
            False,
            "failed to execute command with the iDDS client gave up: SystemExit(255)",
        )


async def test_a_failing_token_is_an_answer(idds: ScriptedPanda) -> None:
    def broken() -> str:
        raise LookupError("no key")

    relay = IddsRelay(idds.url, token=broken, vo="wlcg")
    assert await run(relay, "ping") == (False, "failed to execute command with no key")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ping", "ping"), ("ping+http://idds:443", "ping"), ("ping+HTTP://idds:443/", "ping"),
        ("ping+http://evil", None), ("ping+", None), ("ping+http://idds:443+x", None), ("ping+http://idds:443/x", None),
    ],
)  # fmt: skip
def test_the_host_in_a_command(name: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(WrongHostError, match="relays to http://idds:443 only"):
            command_for(name, "http://idds:443")
    else:
        assert command_for(name, "http://idds:443") == expected


async def test_another_host_is_refused(idds: ScriptedPanda) -> None:
    success, message = await run(relay_to(idds), "ping+http://127.0.0.1:9")
    assert success is False
    assert "this server relays to" in message


class TestWorkflowCommands:
    async def ask(self, idds: ScriptedPanda, name: str, **kwargs: Any) -> Any:
        return await relay_to(idds).workflow_command(JANE, name, kwargs=json.dumps(kwargs), json_outputs=False)

    def owned_by(self, idds: ScriptedPanda, *rows: dict[str, Any]) -> None:
        idds.on("/request/7/null/False/False/False/False", json_body(list(rows)))

    async def test_anyone_may_ask_for_the_status(self, idds: ScriptedPanda) -> None:
        self.owned_by(idds, {**ROW, "username": "Somebody Else"})
        success, table = await self.ask(idds, "get_status", request_id=7)
        assert success
        assert "Finished" in table

    @pytest.mark.parametrize("command", ["abort", "retry"])
    async def test_the_owner_commands(self, idds: ScriptedPanda, command: str) -> None:
        self.owned_by(idds, {**ROW, "username": "Jane Doe"})
        done = [[0, {"status": 0, "message": "Command registered successfully"}]]
        idds.on(f"/request/{command}/7/null", json_body(done))
        assert await self.ask(idds, command, request_id=7) == (True, done)
        asked, commanded = ({k.lower(): v for k, v in seen.headers.items()} for seen in idds.seen)
        assert "x-idds-auth-username-original" not in asked
        assert commanded["x-idds-auth-username-original"] == "Jane Doe"

    @pytest.mark.parametrize("command", ["suspend", "resume", "finish"])
    async def test_commands_that_the_client_of_2_6_does_not_have(self, idds: ScriptedPanda, command: str) -> None:
        self.owned_by(idds, {**ROW, "username": "Jane Doe"})
        expected = f"server failed with 'ClientManager' object has no attribute '{command}'"
        assert await self.ask(idds, command, request_id=7) == (False, expected)

    @pytest.mark.parametrize("command", ["abort", "suspend", "resume", "retry", "finish"])
    async def test_nobody_else_does(self, idds: ScriptedPanda, command: str) -> None:
        self.owned_by(idds, {**ROW, "username": "Somebody Else"})
        assert await self.ask(idds, command, request_id=7) == (False, "request 7 is not owned by Jane Doe")
        assert len(idds.seen) == 1

    async def test_what_cannot_be_checked(self, idds: ScriptedPanda) -> None:
        self.owned_by(idds)
        assert await self.ask(idds, "abort", request_id=7) == (False, "request 7 is not found")
        assert await self.ask(idds, "abort") == (False, "request_id is missing")
        assert await self.ask(idds, "submit", request_id=7) == (False, "submit is unsupported")
        success, message = await self.ask(idds, "abort", request_id=8)
        assert (success, message.split(" with ")[0]) == (False, "server failed")


class TestDecoding:
    def test_enums_come_and_go(self) -> None:
        text = json_dumps({"status": RequestStatus.New})
        assert decode_arguments(text, dict, build=False) == {"status": RequestStatus.New}
        assert decode_arguments(text, dict, build=True) == {"status": RequestStatus.New}
        assert plain({"status": RequestStatus.New}) == json.loads(text)

    def test_an_enum_is_not_written_to(self) -> None:
        forged = json.dumps([{**FINISHED, "attributes": {"_value_": RequestStatus.Finished.value, "_name_": "Forged"}}])
        for build in (True, False):
            assert decode_arguments(forged, list, build=build) == [RequestStatus.Finished]
        assert RequestStatus.Finished.name == "Finished"

    @pytest.mark.parametrize(
        ("module", "name"),
        [
            ("os", "system"), ("iddsx.common", "X"), ("idds", "X"), ("idds.client.client", "Client"),
            ("idds.agents.main", "X"), ("idds.workflow_evil", "X"),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("build", [True, False])
    def test_foreign_classes(self, module: str, name: str, build: bool) -> None:
        text = json.dumps([{"deep": [{"class": name, "module": module, "attributes": {}}]}])
        with pytest.raises(ForeignClassError, match=f"{module}.{name}"):
            decode_arguments(text, list, build=build)

    @pytest.mark.parametrize(
        ("module", "name", "attributes"),
        [
            ("idds.common.utils", "setup_logging", {}),
            ("idds.common.utils", "DictClassEncoder", {}),
            ("idds.common.utils", "nosuch", {}),
            ("idds.iworkflow.work", "Work", {"__class__": 1}),
            ("idds.iworkflow.work", "Work", 3),
        ],
    )
    def test_what_is_no_workflow_class(self, module: str, name: str, attributes: Any) -> None:
        text = json.dumps([{"class": name, "module": module, "attributes": attributes}])
        with pytest.raises(ForeignClassError):
            decode_arguments(text, list, build=True)

    def test_the_low_level_client_gets_objects_as_they_came(self) -> None:
        sent = [{"class": "Work", "module": "idds.doma.workflowv2.domapandawork", "attributes": {"a": 1}}]
        assert decode_arguments(json.dumps(sent), list, build=False) == sent

    def test_nothing_sent(self) -> None:
        assert decode_arguments(None, list, build=True) == []
        assert decode_arguments("", dict, build=True) == {}


async def test_without_idds() -> None:
    answer = await NoIdds().command(JANE, "ping", args=None, kwargs=None, manager=True, json_outputs=False)
    assert answer == (False, "failed to execute command with No section: 'rest'")
    answer = await NoIdds().workflow_command(JANE, "get_status", kwargs=None, json_outputs=False)
    assert answer == (False, "server failed with No section: 'rest'")
