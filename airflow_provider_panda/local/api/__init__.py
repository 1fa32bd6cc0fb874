"""The calls of the PanDA server API v1 that the embedded grid has, by PanDA module."""

from __future__ import annotations

from airflow_provider_panda.local.api import (
    creds,
    file_server,
    idds,
    job,
    pilot,
    system,
    task_commands,
    task_questions,
    task_submission,
)
from airflow_provider_panda.local.api.registry import Endpoint

ENDPOINTS: dict[tuple[str, str], Endpoint] = {
    (endpoint.module, endpoint.name): endpoint
    for module in (creds, file_server, idds, job, pilot, system, task_commands, task_questions, task_submission)
    for endpoint in module.CALLS
}
"""Every call, by module and method."""
