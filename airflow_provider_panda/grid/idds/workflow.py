"""An existing iDDS workflow as a request: read, checked and named.

A workflow is what iDDS's own classes serialise to: ``{"class", "module", "attributes"}``. It goes out as plain JSON; no
class that it names is imported here, other than by whoever made the object.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from airflow_provider_panda.exceptions import ConfigurationError

SUBJECT: Final = "argument workflow"
NAME_LENGTH: Final = 200
"""Characters of a workflow's own name that are kept: iDDS's column takes 255, and a key comes behind."""

_SECRET_WORDS: Final = ("TOKEN", "PASS", "SECRET", "PROXY")
_ENVIRONMENTS: Final = ("_panda_env", "_idds_env")


def read_workflow(given: object) -> dict[str, Any]:
    """Return a serialised workflow.

    :param given: a workflow object of idds-workflow, its JSON as text or dictionary, or the path of a JSON file.
    :raises ConfigurationError: it is none of these.
    """
    if isinstance(given, os.PathLike) or (isinstance(given, str) and not given.lstrip().startswith("{")):
        given = _read_file(Path(os.fspath(given)).expanduser())
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError as error:
            raise ConfigurationError(SUBJECT, f"it is no JSON: {error}", "Give what json_dumps of iDDS wrote") from None
    serialised = copy.deepcopy(dict(given)) if isinstance(given, Mapping) else _serialised(given)
    attributes = serialised.get("attributes")
    module, name = str(serialised.get("module") or ""), str(serialised.get("class") or "")
    if not module.startswith("idds.") or "Workflow" not in name or not isinstance(attributes, dict):
        raise ConfigurationError(
            SUBJECT,
            f"it is no serialised iDDS workflow (class {name or 'unknown'} of {module or 'no module'})",
            "Give an object of idds.workflowv2.workflow.Workflow, or its JSON",
        )
    return serialised


def request_of(workflow: Mapping[str, Any], *, key: str) -> dict[str, Any]:
    """Return the attributes of a request that runs a workflow (iDDS 2.6.21, POST /request).

    The workflow's name gets the key at its end, by which the request is found again.

    :param workflow: serialised workflow, see :func:`read_workflow`.
    :param key: task key.
    :raises ConfigurationError: it is a local workflow, whose works come from the process that runs it.
    """
    named = copy.deepcopy(dict(workflow))
    kind = _kind(named)
    if kind == "iWorkflowLocal":
        raise ConfigurationError(
            SUBJECT,
            "it is a local one, whose works are added by the process that runs it, so it would never end",
            "Give a workflow that holds its works; for functions use @task.panda with service = idds",
        )
    fields = named["attributes"]
    template = fields.get("template")
    if isinstance(template, Mapping) and isinstance(template.get("attributes"), dict):
        fields = template["attributes"]
    name = f"{str(fields.get('_name') or 'workflow')[:NAME_LENGTH]}-{key}"
    fields["_name"] = name
    _without_secrets(named)
    remote = kind == "iWorkflow"
    return {
        "campaign": fields.get("_campaign"),
        "campaign_scope": fields.get("_campaign_scope"),
        "campaign_group": fields.get("_campaign_group"),
        "campaign_tag": fields.get("_campaign_tag"),
        "max_processing_requests": fields.get("_max_processing_requests", -1),
        "scope": "iworkflow" if remote else "workflow",
        "name": name,
        "requester": "panda",
        "request_type": _enum("RequestType", "iWorkflow", 6) if remote else _enum("RequestType", "Workflow", 0),
        "username": fields.get("username"),
        "userdn": fields.get("userdn"),
        "transform_tag": "iWorkflow" if remote else "workflow",
        "status": _enum("RequestStatus", "New", 0),
        "priority": 0,
        "site": None,
        "lifetime": fields.get("_lifetime"),
        "workload_id": fields.get("workload_id"),
        "request_metadata": {"version": "2.6.21", "workload_id": fields.get("workload_id"), "workflow": named},
    }


def _read_file(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            SUBJECT, f"{path} cannot be read: {error}", "Give JSON, or the path of a JSON file"
        ) from None


def _serialised(given: object) -> dict[str, Any]:
    """Return the JSON of an object; read back by the standard library, which imports nothing that it names."""
    from idds.common.utils import json_dumps

    try:
        serialised = json.loads(json_dumps(given))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            SUBJECT, f"a {type(given).__name__} cannot be serialised: {error}", "Give a workflow object of iDDS"
        ) from None
    if not isinstance(serialised, dict):
        raise ConfigurationError(SUBJECT, f"it is a {type(given).__name__}", "Give a workflow object of iDDS")
    return serialised


def _kind(workflow: Mapping[str, Any]) -> str:
    """Return the workflow type of iDDS's newer workflows, or an empty text."""
    context = workflow["attributes"].get("_context")
    attributes = context.get("attributes") if isinstance(context, Mapping) else None
    kind = attributes.get("_workflow_type") if isinstance(attributes, Mapping) else None
    member = kind.get("attributes") if isinstance(kind, Mapping) else None
    return str(member.get("_name_") or "") if isinstance(member, Mapping) else ""


def _without_secrets(value: Any) -> None:
    """Drop credentials from the environments that iDDS's classes copy from the process: any user can read them."""
    entries = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    if isinstance(value, dict):
        for name in _ENVIRONMENTS:
            environment = value.get(name)
            if isinstance(environment, dict):
                value[name] = {
                    variable: content
                    for variable, content in environment.items()
                    if not any(word in str(variable).upper() for word in _SECRET_WORDS)
                }
    for entry in entries:
        _without_secrets(entry)


def _enum(name: str, member: str, value: int) -> dict[str, Any]:
    attributes = {"_value_": value, "_name_": member, "_sort_order_": value}
    return {"class": name, "module": "idds.common.constants", "attributes": attributes}
