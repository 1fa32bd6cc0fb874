"""The workflow of a run and the work of a task: as iDDS's own client would send them, and as iDDS reads them."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from datetime import timedelta
from functools import lru_cache
from typing import Any

import pytest

from airflow_provider_panda.grid.idds.work import (
    DEFAULT_MEMORY_MB,
    RUN_WALLTIME,
    RunRequest,
    Site,
    request_properties,
    transform_properties,
)
from airflow_provider_panda.grid.task import Resources, TaskSpec
from tests.unit.grid.idds.samples import exchange, sample

BOOKKEEPING = {"_zip_items", "_not_auto_unzip_items", "_loading", "_metadata"}
"""What every object of iDDS has from its constructor and nobody sets: left out."""

ASYNC_RESULT = {"_async_ret", "_async_result_initialized", "_async_result_status"}
"""A work that has been submitted by iDDS's own client has these; one that is being sent has not. All are empty."""

KEY = "afabcdefghijklmnopqr"
RUN = RunRequest(name="airflow-dag-run-mark-g0-key", token="0123456789abcdef0123456789abcdef")
SITE = Site(
    panda_url="https://panda:25443", cache_url="https://cache:25444", vo="wlcg.production", user_name="Grid User"
)
SPEC = TaskSpec(
    key=KEY,
    name=f"airflow-dag-task-run-{KEY}",
    n_jobs=3,
    command=f"python3 panda_runner/runner.py --task-key {KEY} --manifest 00ff",
    archive_name="sources.abc.tar.gz",
    resources=Resources(
        queue="QUEUE",
        cloud="CLOUD",
        working_group="group",
        core_count=4,
        memory_mb=8000,
        walltime=timedelta(hours=2),
        priority=700,
        max_attempt=2,
    ),
    container="docker://image:1",
    processing_type="airflow-abcd",
)
PLAIN = TaskSpec(key=KEY, name="plain", n_jobs=1, command="python3 x", archive_name="sources.a.tar.gz")


def names(value: dict[str, Any]) -> set[str]:
    return set(value["attributes"]) - BOOKKEEPING


def test_a_request_has_what_idds_own_client_sends() -> None:
    sent = exchange("POST", "/request")["request_body"]
    ours = request_properties(RUN, SITE)
    assert set(ours) == set(sent)
    for field in ("request_type", "status", "scope", "requester", "transform_tag", "lifetime"):
        assert ours[field] == sent[field]
    assert set(ours["request_metadata"]) == set(sent["request_metadata"])
    theirs, mine = sent["request_metadata"]["workflow"], ours["request_metadata"]["workflow"]
    assert (mine["class"], mine["module"]) == (theirs["class"], theirs["module"])
    assert names(mine) == names(theirs) | {"logger"}  # as their contexts have it
    assert names(mine["attributes"]["_context"]) == names(theirs["attributes"]["_context"])


def test_a_transform_has_what_idds_own_client_sends() -> None:
    sent = exchange("POST", "/transform/1")["request_body"]
    ours = transform_properties(SPEC, RUN, 1, SITE)
    assert set(ours) == set(sent)
    for field in ("transform_type", "status", "transform_tag", "retries"):
        assert ours[field] == sent[field]
    theirs, mine = sent["transform_metadata"]["work"], ours["transform_metadata"]["work"]
    assert names(mine) - ASYNC_RESULT - {"logger"} == names(theirs) - ASYNC_RESULT - {"logger"}
    context, our_context = theirs["attributes"]["_context"], mine["attributes"]["_context"]
    assert names(our_context) == names(context)
    # Of a work's further attributes only the job key is ours; iDDS asks for the others by name and takes None.
    assert {"job_key"} == set(our_context["attributes"]["_other_attributes"])
    assert {"job_key"} < set(context["attributes"]["_other_attributes"])
    run, our_run = context["attributes"]["_workflow_context"], our_context["attributes"]["_workflow_context"]
    assert names(our_run) == names(run)
    assert names(sample("iworkflow_work.json")) == names(mine) - {"logger"}


def test_the_works_of_a_run_show_the_token_of_its_request() -> None:
    ours = transform_properties(SPEC, RUN, 7, SITE)
    context = ours["transform_metadata"]["work"]["attributes"]["_context"]["attributes"]
    run = context["_workflow_context"]["attributes"]
    request = request_properties(RUN, SITE)["request_metadata"]["workflow"]["attributes"]["_context"]["attributes"]
    assert ours["token"] == run["_token"] == request["_token"] == RUN.token
    assert (run["_request_id"], request["_request_id"]) == (7, None)
    assert ours["internal_id"] == context["_internal_id"] == KEY  # what messages are stored under
    assert len(KEY) <= 20  # the column's width
    assert RUN.token not in repr(RUN)
    assert (request["_max_walltime"], run["_max_walltime"]) == (RUN_WALLTIME, 0)


PROPERTIES = """
import json, sys
from idds.common.utils import json_loads, json_dumps
given = json.load(sys.stdin)
workflow = json_loads(json.dumps(given["workflow"]))
work = json_loads(json.dumps(given["work"]))
work.request_id, work.transform_id = given["request_id"], given["transform_id"]
again = json_loads(json_dumps(work))
told = {
    "classes": [type(workflow).__name__, type(work).__name__, type(work._context).__name__],
    "workflow": {
        name: getattr(workflow, name) for name in ("name", "token", "max_attempt", "multi_jobs_kwargs_list", "prepared")
    },
    "max_walltime": workflow._context.max_walltime,
    "workflow_type": [work.workflow_type.name, workflow.workflow_type.name],
    "work": {
        name: getattr(work, name)
        for name in (
            "name token max_attempt multi_jobs_kwargs_list container_options job_key request_id transform_id "
            "vo queue site cloud no_wait_parent working_group num_events username priority processing_type task_type "
            "core_count total_memory max_walltime input_datasets output_dataset_name output_file_name log_dataset_name "
            "internal_id parent_workload_id post_script"
        ).split()
    },
    "init_env": work._context.init_env,
    "runner": work.get_runner(),
    "after_storing": [again.name, again.token, again.job_key, again._context.init_env, again.multi_jobs_kwargs_list],
}
print(json.dumps(told))
"""
"""In a process of its own: iDDS's classes read the environment and the configuration of whoever loads them."""


@lru_cache
def as_idds_reads(spec: TaskSpec) -> dict[str, Any]:
    given = {
        "workflow": request_properties(RUN, SITE)["request_metadata"]["workflow"],
        "work": transform_properties(spec, RUN, 7, SITE)["transform_metadata"]["work"],
        "request_id": 7,
        "transform_id": 9,
    }
    done = subprocess.run(
        [sys.executable, "-c", PROPERTIES],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def test_idds_reads_its_own_objects() -> None:
    read = as_idds_reads(SPEC)
    assert read["classes"] == ["Workflow", "Work", "WorkContext"]
    assert read["workflow_type"] == ["iWork", "iWorkflowLocal"]
    assert read["workflow"] == {
        "name": RUN.name,
        "token": RUN.token,
        "max_attempt": 1,
        "multi_jobs_kwargs_list": [],
        "prepared": True,
    }
    assert read["max_walltime"] == RUN_WALLTIME
    assert read["after_storing"] == [
        SPEC.name, RUN.token, "${ATTEMPTNR}", read["init_env"], ["j0", "j1", "j2"],
    ]  # fmt: skip


def test_what_idds_makes_a_panda_task_of() -> None:
    assert as_idds_reads(SPEC)["work"] == {
        "name": SPEC.name,
        "token": RUN.token,
        "max_attempt": 2,
        "multi_jobs_kwargs_list": ["j0", "j1", "j2"],
        "container_options": {"container_image": "docker://image:1"},
        "job_key": "${ATTEMPTNR}",
        "request_id": 7,
        "transform_id": 9,
        "vo": "wlcg",
        "queue": "QUEUE",
        "site": None,
        "cloud": "CLOUD",
        "no_wait_parent": False,
        "working_group": "group",
        "num_events": None,
        "username": "Grid User",
        "priority": 700,
        "processing_type": "airflow-abcd",
        "task_type": None,
        "core_count": 4,
        "total_memory": 8000,
        "max_walltime": 7200,
        "input_datasets": None,  # asked for where there are no jobs only
        "output_dataset_name": None,
        "output_file_name": None,
        "log_dataset_name": None,
        "internal_id": KEY,
        "parent_workload_id": None,
        "post_script": None,
    }


def test_a_task_that_says_nothing_of_its_needs() -> None:
    work = as_idds_reads(PLAIN)["work"]
    assert (work["queue"], work["cloud"], work["working_group"], work["container_options"]) == (None,) * 4
    assert work["total_memory"] == DEFAULT_MEMORY_MB  # iDDS divides by the cores
    assert (work["core_count"], work["max_walltime"], work["max_attempt"]) == (1, 0, 3)
    assert work["multi_jobs_kwargs_list"] == ["j0"]  # with none, the job would get no key


def test_the_job_runs_our_command_with_the_attempt_as_its_key() -> None:
    read = as_idds_reads(SPEC)
    words = read["runner"].split()
    setup = json.loads(base64.b64decode(words[words.index("--setup") + 1]))
    assert setup == read["init_env"] == f"{SPEC.command} "
    assert "--pre_setup" not in words or json.loads(base64.b64decode(words[words.index("--pre_setup") + 1])) == ""
    assert words[words.index("--key") + 1] == "${ATTEMPTNR}"
    assert read["runner"].endswith('--current_job_kwargs "${IN/T}"')
    context = json.loads(base64.b64decode(words[words.index("--context") + 1]))["attributes"]
    assert (context["_transform_id"], context["_internal_id"]) == (9, KEY)
    run = context["_workflow_context"]["attributes"]
    assert run["_request_id"] == 7
    assert run["remote_source_file"] == "https://cache:25444/cache/sources.abc.tar.gz"


@pytest.mark.parametrize(
    "name",
    [
        "OIDC_AUTH_ID_TOKEN", "OIDC_AUTH_TOKEN_FILE", "PANDA_AUTH_ID_TOKEN", "IDDS_OIDC_TOKEN", "IDDS_BROKER_PASSWORD",
        "X509_USER_PROXY", "PANDA_AUTH", "IDDS_AUTH_TYPE", "PANDA_SECRET",
    ],
)  # fmt: skip
def test_nothing_of_the_environment_gets_into_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without = json.dumps([request_properties(RUN, SITE), transform_properties(SPEC, RUN, 7, SITE)])
    monkeypatch.setenv(name, "a secret of this process")
    with_it = json.dumps([request_properties(RUN, SITE), transform_properties(SPEC, RUN, 7, SITE)])
    assert with_it == without
    assert os.environ[name] not in with_it


def test_no_broker_and_no_credentials_in_a_context() -> None:
    context = transform_properties(SPEC, RUN, 7, SITE)["transform_metadata"]["work"]["attributes"]["_context"]
    run = context["attributes"]["_workflow_context"]["attributes"]
    assert {name: value for name, value in run.items() if "broker" in name} == {
        "_broker_initialized": False,
        "_brokers": None,
        "_broker_timeout": 180,
        "_broker_username": None,
        "_broker_password": None,
        "_broker_destination": None,
    }
    assert run["_idds_env"] == {}
    assert set(run["_panda_env"]) == {"PANDA_URL", "PANDA_URL_SSL", "PANDACACHE_URL"}


@pytest.mark.parametrize(("vo", "plain"), [("wlcg", "wlcg"), ("atlas:prod", "atlas"), ("wlcg.a.b", "wlcg"), ("", None)])
def test_the_role_stays_out_of_the_vo(vo: str, plain: str | None) -> None:
    site = Site(panda_url="http://p", cache_url="http://p", vo=vo)
    workflow = request_properties(RUN, site)["request_metadata"]["workflow"]["attributes"]
    assert workflow["_context"]["attributes"]["_vo"] == plain
    assert workflow["_context"]["attributes"]["_username"] is None
