"""An existing workflow as a request: what is read, what it is called, what leaves this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_panda.exceptions import ConfigurationError
from airflow_provider_panda.grid.idds.workflow import read_workflow, request_of

KEY = "afabcd00000000000000"


def newer(**attributes: Any) -> dict[str, Any]:
    """Return a workflow as ``idds.workflowv2`` serialises it, without works."""
    template = {
        "class": "WorkflowBase",
        "module": "idds.workflowv2.workflow",
        "attributes": {"_name": "w", **attributes},
    }
    return {"class": "Workflow", "module": "idds.workflowv2.workflow", "attributes": {"template": template, "runs": {}}}


def functional(kind: str, **context: Any) -> dict[str, Any]:
    """Return a workflow as ``idds.iworkflow`` serialises it."""
    member = {"class": "WorkflowType", "module": "idds.common.constants", "attributes": {"_name_": kind}}
    attributes = {"_name": "f", "_context": {"attributes": {"_workflow_type": member, **context}}}
    return {"class": "Workflow", "module": "idds.iworkflow.workflow", "attributes": attributes}


def test_a_workflow_comes_in_many_forms(tmp_path: Path) -> None:
    text = json.dumps(newer())
    (tmp_path / "w.json").write_text(text)
    for given in (newer(), text, f"\n {text}", tmp_path / "w.json", str(tmp_path / "w.json")):
        assert read_workflow(given) == newer()


def test_an_object_is_serialised_by_idds_and_read_by_nobody(tmp_path: Path) -> None:
    """In a process of its own: idds-client's modules read a configuration at import."""
    code = (
        "from idds.workflowv2.workflow import Workflow\n"
        "from airflow_provider_panda.grid.idds.workflow import read_workflow, request_of\n"
        f"request = request_of(read_workflow(Workflow(name='mine')), key={KEY!r})\n"
        "import json; print('TOLD', json.dumps(request))\n"
    )
    environment = {**os.environ, "IDDS_CONFIG": os.devnull, "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    (told,) = (line for line in done.stdout.splitlines() if line.startswith("TOLD ")) if not done.returncode else ("",)
    assert told, done.stderr
    request = json.loads(told.removeprefix("TOLD "))
    assert request["name"] == f"mine-{KEY}"
    workflow = request["request_metadata"]["workflow"]
    assert workflow["module"] == "idds.workflowv2.workflow"
    assert workflow["attributes"]["template"]["attributes"]["_name"] == f"mine-{KEY}"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("/no/such/file.json", "cannot be read"),
        ("{not json", "it is no JSON"),
        ({}, "no serialised iDDS workflow"),
        ({"class": "Popen", "module": "subprocess", "attributes": {}}, "class Popen of subprocess"),
        ({"class": "Work", "module": "idds.iworkflow.work", "attributes": {}}, "class Work"),
        ({"class": "Workflow", "module": "idds.workflowv2.workflow"}, "no serialised iDDS workflow"),
    ],
)
def test_anything_else_is_refused(given: Any, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        read_workflow(given)


def test_the_request_has_the_workflows_attributes_and_a_name_of_its_own() -> None:
    given = newer(_lifetime=100, _campaign="c", username="u", workload_id=None, _max_processing_requests=5)
    request = request_of(given, key=KEY)
    wanted = {
        "name": f"w-{KEY}", "scope": "workflow", "transform_tag": "workflow", "lifetime": 100, "campaign": "c",
        "username": "u", "max_processing_requests": 5, "requester": "panda",
    }  # fmt: skip
    assert {name: request[name] for name in wanted} == wanted
    assert request["request_type"]["attributes"]["_name_"] == "Workflow"
    assert given == newer(_lifetime=100, _campaign="c", username="u", workload_id=None, _max_processing_requests=5)
    json.dumps(request)


def test_a_long_name_still_ends_with_the_key() -> None:
    name = request_of(newer(_name="x" * 400), key=KEY)["name"]
    assert name.endswith(f"x-{KEY}")
    assert len(name) < 255


def test_a_remote_function_workflow_is_a_request_of_its_kind() -> None:
    request = request_of(functional("iWorkflow"), key=KEY)
    assert request["request_type"]["attributes"] == {"_value_": 6, "_name_": "iWorkflow", "_sort_order_": 6}
    assert (request["scope"], request["transform_tag"]) == ("iworkflow", "iWorkflow")


def test_a_local_workflow_would_never_end() -> None:
    with pytest.raises(ConfigurationError, match="it would never end"):
        request_of(functional("iWorkflowLocal"), key=KEY)


def test_credentials_of_this_process_stay_here() -> None:
    environment = {"PANDA_URL": "https://p", "PANDA_AUTH_ID_TOKEN": "eyJ", "X509_USER_PROXY": "/x", "DB_PASSWORD": "p"}
    request = request_of(functional("iWorkflow", _panda_env=environment, _idds_env={"A_SECRET": "s"}), key=KEY)
    context = request["request_metadata"]["workflow"]["attributes"]["_context"]["attributes"]
    assert context["_panda_env"] == {"PANDA_URL": "https://p"}
    assert context["_idds_env"] == {}
