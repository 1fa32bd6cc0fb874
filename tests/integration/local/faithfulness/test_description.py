"""Requests and answers against the published description of the API, by the rules of OpenAPI's schemas."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_provider_panda.local.api import ENDPOINTS

from .description import CALLS, DESCRIPTION, Request, answer_violations, call_of, described, verbs, violations
from .gaps import NOT_COVERED
from .samples import exchanges
from .situations import SITUATIONS
from .world import World

ORIGINAL = Path("/work/shared/spec/panda_api.yaml")
ON_THE_DESCRIPTION = sorted(name for name, s in exchanges().items() if call_of(s.path) in described())

REQUESTS_DEVIATE: dict[str, list[str]] = {
    "creds.get_user_secrets#0": ["method GET is not described"],
    "file_server.upload_cache_file#0": ["body is multipart/form-data"],
    "file_server.upload_cache_file#1": ["body is multipart/form-data"],
    "file_server.upload_cache_file#2": ["body is multipart/form-data"],
    "job.get_description#0": ["method POST is not described"],
    "job.get_description#1": ["method POST is not described"],
    "job.get_description_incl_archive#0": ["method POST is not described"],
    "pilot.get_job_status#0": ["method POST is not described"],
    "pilot.get_job_status#1": [f"parameter job_ids: $[{i}] is str, not object" for i in range(3)],
    "task.get_tasks_detailed_info_since#0": ["parameter since is missing"],
    "task.get_tasks_modified_since#0": ["parameter min_task_id: $ is str, not integer"],
    "task.submit#0": ["body: $.task_parameters is object, not string", "body: $.parent_tid is null, not integer"],
    "task.submit#1": ["body: $.task_parameters is object, not string", "body: $.parent_tid is null, not integer"],
    "task.submit#2": ["body: $.task_parameters is object, not string", "body: $.parent_tid is null, not integer"],
}
"""Captured requests that the real server answered and its description does not foresee (gaps.SERVER_DEVIATES)."""

SIGNATURES_DEVIATE: dict[str, str] = {
    "creds/get_user_secrets": "GET and POST work on the real server, POST is described",
    "job/get_description": "GET and POST work on the real server, one is described",
    "job/get_description_incl_archive": "GET and POST work on the real server, one is described",
}
"""Calls whose HTTP method here is not the described one alone."""


ARGUMENTS_NEEDED = {"pilot/update_job": {"job_status"}}
"""Arguments that are described as optional, and without which the real server's code does not go (code)."""


def request_of(name: str) -> Request:
    sample = exchanges()[name]
    kind = sample.headers.get("Content-Type")
    return Request(sample.method, sample.path, kind.split(";")[0] if kind else None, sample.body)


@pytest.mark.parametrize("name", ON_THE_DESCRIPTION)
def test_what_clients_send(name: str) -> None:
    found = dict.fromkeys(violations(request_of(name)))  # null where another type belongs is reported twice
    assert list(found) == REQUESTS_DEVIATE.get(name, [])


@pytest.mark.parametrize("name", [n for n in ON_THE_DESCRIPTION if n not in NOT_COVERED])
def test_answers_keep_to_the_description_as_far_as_the_real_ones_do(world: World, name: str) -> None:
    sample = exchanges()[name]
    answer = world.send(sample, SITUATIONS[name](world))
    real = kinds(sample.answer, sample.answer_headers["Content-Type"])
    ours = kinds(json.loads(answer.content), answer.headers["content-type"])
    assert ours == real
    assert ours <= {"content type", "data"}, "known deviations of the real server"


def kinds(body: Any, content_type: str) -> set[str]:
    """Return where an answer does not keep to the description."""
    return {"data" if v.startswith("data") else v.rsplit(" ", 1)[0] for v in answer_violations(body, content_type)}


@pytest.mark.parametrize("call", sorted(f"{m}/{n}" for m, n in ENDPOINTS if f"{m}/{n}" in described()))
def test_calls_take_the_described_arguments(call: str) -> None:
    module, name = call.split("/")
    endpoint = ENDPOINTS[module, name]
    (verb,) = verbs(call)
    operation = CALLS[f"{verb} /v1/{call}"]
    listed = operation.get("parameters", [])
    body = operation.get("body", {})
    known = {p["name"] for p in listed} | set(body.get("properties", {}))
    required = {p["name"] for p in listed if p.get("required")} | set(body.get("required", []))
    taken = endpoint.signature.parameters
    assert set(taken) == known - {"**kwargs"}, "an artefact of the description's generator"
    without_default = {n for n, p in taken.items() if p.default is inspect.Parameter.empty}
    assert without_default - required == ARGUMENTS_NEEDED.get(call, set()), "what is described as optional is optional"
    assert (endpoint.method == verb) is (call not in SIGNATURES_DEVIATE)


def test_the_validation_sees_what_it_is_there_for() -> None:
    def of(method: str, path: str, body: Any = "", kind: str = "application/json") -> list[str]:
        return list(violations(Request(method, path, kind, body)))

    assert of("GET", "/api/v1/task/get_status?task_id=1") == []
    assert of("GET", "/api/v1/task/get_status?task_id=x") == ["parameter task_id: $ is str, not integer"]
    assert of("GET", "/api/v1/task/get_status") == ["parameter task_id is missing"]
    assert of("GET", "/api/v1/task/get_status?task_id=1&y=1") == ["parameter y is not described"]
    assert of("POST", "/api/v1/task/kill", {"task_id": 1}) == []
    assert of("POST", "/api/v1/task/kill", {"task_id": "1"}) == ["body: $.task_id is str, not integer"]
    assert of("POST", "/api/v1/task/kill", {}) == ["body: 'task_id' is a required property"]
    assert len(of("POST", "/api/v1/task/kill", {"task_id": 1, "x": 1})) == 1
    assert of("POST", "/api/v1/task/kill", b"task_id=1", "text/plain") == ["body is text/plain"]
    good = {"success": True, "message": "", "data": {}}
    assert list(answer_violations(good, "application/json")) == []
    assert kinds({**good, "data": None}, "text/plain") == {"content type", "data"}
    assert list(answer_violations({"success": 1, "data": {}}, "application/json")) != []


@pytest.mark.skipif(not ORIGINAL.is_file(), reason="the original is on the development machine only")
def test_the_copy_is_the_published_description() -> None:
    original = yaml.safe_load(ORIGINAL.read_text())
    assert DESCRIPTION["version"] == original["info"]["version"]
    assert set(CALLS) == {f"{verb.upper()} {path}" for path, verbs in original["paths"].items() for verb in verbs}
    for path, operations in original["paths"].items():
        for verb, operation in operations.items():
            copy = CALLS[f"{verb.upper()} {path}"]
            names = {p["name"]: p.get("required") for p in operation.get("parameters", [])}
            assert {p["name"]: p.get("required") for p in copy.get("parameters", [])} == names
            schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            for name, kind in schema.get("properties", {}).items():
                assert copy["body"]["properties"][name].get("type") == kind.get("type")
            assert copy.get("body", {}).get("required", []) == schema.get("required", [])
    assert original["swagger"] == "2.0"
    assert any("requestBody" in o for ops in original["paths"].values() for o in ops.values())
