"""The relay against a real iDDS: what the unmodified panda-client sends to PanDA arrives there, as its user's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from idds.common.constants import RequestStatus, RequestType
from idds.common.utils import json_dumps
from idds.iworkflow.workflow import Workflow

from airflow_provider_panda.local.auth import issue_token, keys_of
from tests.stack.scripted_panda import scripted_panda, stall
from tests.stack.stack import Stack

from .conftest import RunningGrid

PROGRAM = """
import json, sys
from idds.common.utils import json_dumps, json_loads
from pandaclient import Client, idds_api

name, manager, args, kwargs, host = json_loads(sys.stdin.read())
api = idds_api.get_api(dumper=json_dumps, loader=json_loads, idds_host=host, compress=True, manager=manager)
print(json_dumps(getattr(api, name)(*args, **kwargs)))
"""


@pytest.fixture(scope="module")
def stack(idds_stack: Stack) -> Stack:
    return idds_stack


def token_of(stack: Stack, name: str) -> str:
    keys = keys_of(Path(stack.grid.ready["data"]))
    return issue_token(keys, name=name, nickname=name.split()[0].lower(), groups=["wlcg"])


@pytest.fixture(scope="module")
def jane(stack: Stack) -> str:
    return token_of(stack, "Jane Doe")


@pytest.fixture(scope="module")
def other(stack: Stack) -> str:
    return token_of(stack, "Somebody Else")


def ask(
    stack: Stack, token: str, name: str, /, *args: Any, manager: bool = False, host: str | None = None, **kwargs: Any
) -> Any:
    """Have panda-client's idds_api run a command; returns what stands beside its code, which must be 0."""
    url = f"{stack.access.panda_url}/server/panda"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(stack.folder),
        "PANDA_URL": url,
        "PANDA_URL_SSL": url,
        "PANDA_AUTH": "oidc",
        "PANDA_AUTH_VO": "wlcg",
        "PANDA_AUTH_ID_TOKEN": token,
        "PANDA_BEHIND_REAL_LB": "1",
        "PANDA_CONFIG_ROOT": str(stack.folder / ".panda"),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json_dumps([name, manager, args, kwargs, host]),
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    code, outcome = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, outcome
    return outcome


def workflow() -> Workflow:
    return Workflow(func=None, service="panda", local=True, name=f"relayed_{uuid.uuid4().hex[:12]}")


def request_of(made: Workflow) -> dict[str, Any]:
    return {
        "name": made.name,
        "scope": "iworkflowLocal",
        "requester": "panda",
        "request_type": RequestType.iWorkflowLocal,
        "transform_tag": "workflow",
        "status": RequestStatus.New,
        "priority": 0,
        "lifetime": 1,
        "request_metadata": {"version": "2.6.21", "workload_id": None, "workflow": made},
    }


def test_ping(stack: Stack, jane: str) -> None:
    assert ask(stack, jane, "ping") == [True, {"Status": "OK"}]
    assert ask(stack, jane, "ping", manager=True) == [True, {"Status": "OK"}]
    assert ask(stack, jane, "ping", host=stack.access.idds_url) == [True, {"Status": "OK"}]


def test_the_life_of_a_request(stack: Stack, jane: str, other: str) -> None:
    made = workflow()
    success, request_id = ask(stack, jane, "add_request", **request_of(made))
    assert success, request_id
    assert ask(stack, jane, "get_request_id_by_name", name=made.name) == [True, {made.name: request_id}]

    success, (row,) = ask(stack, jane, "get_requests", request_id=request_id, with_transform=False)
    assert success
    assert (row["request_id"], row["name"], row["username"]) == (request_id, made.name, "Jane Doe")
    assert row["status"]["class"] == "RequestStatus"

    work = {"class": "Work", "module": "idds.iworkflow.work", "attributes": {"_name": "w"}}
    transform = {
        "workload_id": None, "transform_type": {"class": "TransformType", "module": "idds.common.constants",
        "attributes": {"_value_": 10}}, "transform_tag": "work", "priority": 0, "retries": 0, "internal_id": "af01",
        "parent_internal_id": None, "name": "w", "token": made._context._token,
        "transform_metadata": {"version": "2.6.21", "work": work},
    }  # fmt: skip
    success, transform_id = ask(stack, jane, "add_transform", request_id, **transform)
    assert success, transform_id
    success, found = ask(stack, jane, "get_transforms", request_id=request_id)
    assert success
    assert [(t["transform_id"], t["name"], t["internal_id"]) for t in found] == [(transform_id, "w", "af01")]
    success, rows = ask(stack, jane, "get_requests", request_id=request_id, with_transform=True)
    assert success
    assert [r["transform_id"] for r in rows] == [transform_id]

    message = {"headers": {"channel": "asyncresult"}, "body": {"ret": [True, 42, None]}, "msg_type": "async_result"}
    sent = ask(
        stack,
        jane,
        "send_messages",
        request_id=request_id,
        transform_id=transform_id,
        internal_id="af01",
        msgs=[message],
    )
    assert sent == [True, None]
    for internal_id in ("af01", "null"):  # left out, the client asks for the messages of a work named None
        success, messages = ask(
            stack, jane, "get_messages", request_id=request_id, transform_id=transform_id, internal_id=internal_id
        )
        assert success
        assert [m["body"]["ret"] for m in messages] == [[True, 42, None]]

    success, refused = ask(stack, other, "get_messages", request_id=request_id, transform_id=transform_id)
    assert success is False
    assert refused.startswith("failed to execute command with ")
    assert "User Somebody Else has no permission" in refused
    success, (refused,) = ask(stack, other, "close_request", request_id=request_id)
    assert success
    assert "User Somebody Else has no permission" in refused[1]["message"]
    success, (closed,) = ask(stack, jane, "close_request", request_id=request_id)
    assert success
    assert closed[1]["status"] == 0, closed


def test_requests_are_updated_and_aborted(stack: Stack, jane: str, other: str) -> None:
    success, request_id = ask(stack, jane, "add_request", **request_of(workflow()))
    assert success
    success, updated = ask(stack, jane, "update_request", request_id, {"status": RequestStatus.ToSuspend})
    assert (success, updated["status"]) == (True, 0), updated
    success, refused = ask(stack, other, "update_request", request_id, {"status": RequestStatus.ToSuspend})
    assert success is False
    assert "User Somebody Else has no permission" in refused
    success, (aborted,) = ask(stack, jane, "abort_request", request_id)
    assert success
    assert aborted[1]["status"] == 0, aborted


def test_metainfo(stack: Stack, jane: str) -> None:
    success, found = ask(stack, jane, "get_metainfo", name="asyncresult_config")
    assert success
    assert found


def test_the_manager(stack: Stack, jane: str) -> None:
    made = workflow()
    success, request_id = ask(stack, jane, "submit", made, manager=True)
    assert success
    assert isinstance(request_id, int), request_id
    success, table = ask(stack, jane, "get_status", request_id=request_id, manager=True)
    assert success
    assert table.splitlines()[0].split() == ["request_id", "request_workload_id", "scope:name", "status", "errors"]
    assert f"iworkflowLocal:{made.name}" in table
    success, (row,) = ask(stack, jane, "get_requests", request_id=request_id)
    assert (row["username"], row["request_type"]["attributes"]["_name_"]) == ("Jane Doe", "iWorkflowLocal")
    success, (closed,) = ask(stack, jane, "close", request_id=request_id, manager=True)
    assert success
    assert closed[1]["status"] == 0, closed


def test_what_is_not_there(stack: Stack, jane: str) -> None:
    assert ask(stack, jane, "get_requests", request_id=999999) == [True, []]
    success, table = ask(stack, jane, "get_status", request_id=999999, manager=True)
    assert (success, table.splitlines()[0].split()[:2]) == (True, ["request_id", "request_workload_id"])
    expected = [False, "nosuchcmd is not a command of iDDS ClientManager"]
    assert ask(stack, jane, "nosuchcmd", manager=True) == expected
    success, refused = ask(stack, jane, "ping", host="http://127.0.0.1:9")
    assert success is False
    assert f"this server relays to {stack.access.idds_url} only" in refused


def test_commands_of_a_workflow(stack: Stack, jane: str, other: str) -> None:
    success, request_id = ask(stack, jane, "submit", workflow(), manager=True)
    assert success

    def command(token: str, name: str) -> Any:
        answer = httpx.post(
            f"{stack.access.panda_url}/server/panda/execute_idds_workflow_command",
            data={"command_name": name, "kwargs": json.dumps({"request_id": request_id})},
            headers={"Authorization": f"Bearer {token}", "Origin": "wlcg"},
            timeout=60,
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    success, table = command(other, "get_status")
    assert success
    assert str(request_id) in table
    assert command(other, "abort") == [False, f"request {request_id} is not owned by Somebody Else"]
    success, (retried,) = command(jane, "retry")
    assert success
    assert retried[1]["status"] == 0, retried
    success, (aborted,) = command(jane, "abort")
    assert success
    assert aborted[1]["status"] == 0, aborted
    assert command(jane, "submit") == [False, "submit is unsupported"]


def test_the_new_api(stack: Stack, jane: str) -> None:
    def post(method: str, **arguments: Any) -> dict[str, Any]:
        answer = httpx.post(
            f"{stack.access.panda_url}/api/v1/idds/{method}",
            json=arguments,
            headers={"Authorization": f"Bearer {jane}", "Origin": "wlcg", "Accept": "application/json"},
            timeout=60,
        )
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    expected = {"success": True, "message": "", "data": {"Status": "OK"}}
    assert post("relay_idds_command", command_name="ping", manager=True) == expected
    assert post("relay_idds_command", command_name="nosuch") == {
        "success": False,
        "message": "nosuch is not a command of iDDS Client",
        "data": None,
    }
    name = workflow()
    arguments = json_dumps(request_of(name))
    added = post("relay_idds_command", command_name="add_request", kwargs=arguments)
    assert added["success"], added
    found = post("relay_idds_command", command_name="get_requests", kwargs=json.dumps({"request_id": added["data"]}))
    assert found["data"][0]["status"]["class"] == "RequestStatus"
    status = post(
        "execute_idds_workflow_command", command_name="get_status", kwargs=json.dumps({"request_id": added["data"]})
    )
    assert name.name in status["data"]


def test_a_grid_stops_while_idds_is_silent(start: Callable[..., RunningGrid]) -> None:
    with scripted_panda() as silent, ThreadPoolExecutor(1) as pool:
        silent.on("/ping", stall(silent))
        grid = start("--slots", "0", "--idds-host", silent.url, "--idds-deadline", "600")
        url = f"{grid.url}/api/v1/idds/relay_idds_command"
        asked = pool.submit(httpx.post, url, json={"command_name": "ping"}, headers=grid.headers, timeout=120)
        while not silent.seen:
            assert not asked.done()
            time.sleep(0.01)
        assert grid.get("task/get_job_ids", task_id=1)["success"]
        assert grid.stop() == 0
        assert not silent.stopping.is_set()
        asked.exception(timeout=60)
