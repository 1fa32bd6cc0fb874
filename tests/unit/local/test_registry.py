"""Arguments of calls: what is missing, unexpected or of another type, and how a query string is read."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_panda.local.api import ENDPOINTS
from airflow_provider_panda.local.api.registry import bind, refusal
from airflow_provider_panda.local.auth import Identity

USER = Identity("A B", "ab", "wlcg", None)
PRODUCTION = Identity("A B", "ab", "wlcg", "production")
PILOT = Identity("A B", "ab", "wlcg", "pilot")


@pytest.mark.parametrize(
    ("call", "arguments", "from_query", "expected"),
    [
        (("task", "get_job_ids"), {"task_id": "3"}, True, {"task_id": 3}),
        (("task", "get_job_ids"), {"task_id": 3}, False, {"task_id": 3}),
        (("task", "get_job_ids"), {}, True, "Argument error: missing a required argument: 'task_id'"),
        (("task", "get_job_ids"), {"task_id": "3"}, False, "Type error: 'task_id' must be of type int, got str."),
        (("task", "get_job_ids"), {"task_id": "7.0"}, True, {"task_id": 7}),
        (("task", "get_status"), {"task_id": "x"}, True, {"task_id": "x"}),
        (
            ("task", "get_job_ids"),
            {"task_id": "x"},
            True,
            "Type error: 'task_id' with value 'x' could not be casted to type int from str.",
        ),
        (("job", "get_description"), {"job_ids": ["1"]}, False, "Type error: All elements in 'job_ids' must be int."),
        (("task", "get_job_ids"), {"task_id": True}, False, "Type error: 'task_id' must be of type int, got bool."),
        (
            ("task", "get_job_ids"),
            {"task_id": "3", "y": "1"},
            True,
            "Argument error: got an unexpected keyword argument 'y'",
        ),
        (
            ("task", "submit"),
            {"task_parameters": {}, "parent_tid": None},
            False,
            {"task_parameters": {}, "parent_tid": None},
        ),
        (
            ("task", "submit"),
            {"task_parameters": "x"},
            False,
            "Type error: 'task_parameters' must be of type dict, got str.",
        ),
        (("job", "get_status"), {"job_ids": ["1", "2"]}, True, {"job_ids": [1, 2]}),
        (("job", "get_status"), {"job_ids": "1"}, True, {"job_ids": [1]}),
        (
            ("task", "get_tasks_modified_since"),
            {"since": "s", "dn": "None", "full": "True", "min_task_id": "None"},
            True,
            {"since": "s", "dn": None, "full": True, "min_task_id": None},
        ),
        (("task", "get_tasks_detailed_info_since"), {"n_tasks": "5"}, True, {"n_tasks": 5}),
        (("creds", "set_user_secrets"), {"key": "k", "value": None}, False, {"key": "k", "value": None}),
    ],
)
def test_bind(call: tuple[str, str], arguments: dict[str, Any], from_query: bool, expected: Any) -> None:
    bound, problem = bind(ENDPOINTS[call], arguments, from_query=from_query)
    assert (bound if problem is None else problem) == expected


@pytest.mark.parametrize(
    ("call", "method", "identity", "reason"),
    [
        (("system", "is_alive"), "GET", None, None),
        (("task", "get_status"), "GET", None, "SSL secure connection is required"),
        (("task", "get_status"), "POST", USER, "expecting GET, received POST"),
        (("task", "get_status"), "GET", USER, None),
        (("task", "pause"), "POST", USER, "production or pilot role required"),
        (("task", "pause"), "POST", PILOT, "production or pilot role required"),
        (("task", "pause"), "POST", PRODUCTION, None),
        (("pilot", "update_job"), "POST", USER, "production or pilot role required"),
        (("pilot", "update_job"), "POST", PILOT, None),
        (("pilot", "acquire_jobs"), "POST", USER, None),
        (("job", "get_description"), "GET", USER, None),
        (("job", "get_description"), "POST", USER, None),
    ],
)
def test_refusal(call: tuple[str, str], method: str, identity: Identity | None, reason: str | None) -> None:
    assert refusal(ENDPOINTS[call], method=method, identity=identity) == reason
