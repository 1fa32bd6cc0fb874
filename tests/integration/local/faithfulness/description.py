"""The published description of PanDA's API (spec/panda_api.yaml; here without its prose), and what conforms to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from jsonschema import ValidationError
from openapi_schema_validator import OAS30Validator

from .samples import SAMPLES
from .shapes import kind

DESCRIPTION: dict[str, Any] = json.loads((SAMPLES / "spec" / "panda_api.json").read_text())
CALLS: dict[str, dict[str, Any]] = DESCRIPTION["calls"]


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it went over the wire, its JSON body decoded."""

    method: str
    path: str
    content_type: str | None
    body: Any


def verbs(call: str) -> set[str]:
    """Return the HTTP methods that are described for ``module/name``."""
    return {key.split()[0] for key in CALLS if key.endswith(f" /v1/{call}")}


def described() -> set[str]:
    """Return all described calls as ``module/name``."""
    return {key.split(" /v1/", 1)[1] for key in CALLS}


def call_of(path: str) -> str | None:
    """Return the ``module/name`` of an address, or None for addresses outside the new API."""
    bare = urlsplit(path).path
    return bare.removeprefix("/api/v1/") if bare.startswith("/api/v1/") else None


def _typed(text: str, schema: dict[str, Any]) -> Any:
    """Return a query parameter as the described type where it can be read so."""
    if schema.get("type") == "integer" and text.lstrip("-").isdigit():
        return int(text)
    if schema.get("type") == "boolean" and text in ("True", "False", "true", "false"):
        return text in ("True", "true")
    return text


def said(error: ValidationError) -> str:
    """Return an error in few words: where, and what is described there."""
    if error.validator != "type":
        return str(error.message)
    return f"{error.json_path} is {kind(error.instance)}, not {error.validator_value}"


def violations(request: Request) -> Iterator[str]:
    """Yield how a request does not keep to the description."""
    call = call_of(request.path)
    assert call is not None
    operation = CALLS.get(f"{request.method} /v1/{call}")
    if operation is None:
        yield f"method {request.method} is not described"
        return
    parameters = {p["name"]: p for p in operation.get("parameters", ())}
    query = parse_qs(urlsplit(request.path).query, keep_blank_values=True)
    for name, values in query.items():
        schema = parameters.get(name)
        if schema is None:
            yield f"parameter {name} is not described"
            continue
        bare = {k: v for k, v in schema.items() if k in ("type", "items", "enum")}
        value: Any = (
            [_typed(v, schema.get("items", {})) for v in values]
            if schema.get("type") == "array"
            else _typed(values[-1], schema)
        )
        yield from (f"parameter {name}: {said(e)}" for e in OAS30Validator(bare).iter_errors(value))
    for name, schema in parameters.items():
        if schema.get("required") and name not in query:
            yield f"parameter {name} is missing"
    if "body" in operation:
        if request.content_type != "application/json":
            yield f"body is {request.content_type}"
            return
        schema = {**operation["body"], "additionalProperties": False}
        yield from (f"body: {said(e)}" for e in OAS30Validator(schema).iter_errors(request.body))


def answer_violations(body: Any, content_type: str) -> Iterator[str]:
    """Yield how an answer with status 200 does not keep to the description."""
    if content_type != "application/json":
        yield f"content type {content_type}"
    for error in OAS30Validator(DESCRIPTION["answer"]).iter_errors(body):
        yield f"{'.'.join(map(str, error.path)) or 'answer'}: {error.message}"
