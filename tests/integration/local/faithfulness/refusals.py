"""Outcomes that facts/panda.md section 2 and 3 report of the real server in words, without a captured exchange."""

from __future__ import annotations

from dataclasses import dataclass, field

SSL = '{"success": false, "message": "SSL secure connection is required", "data": null}'
FORBIDDEN = "ERROR : Token authentication failed. "


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that is refused.

    :param token: ``good``, ``expired``, ``foreign`` (of another group), ``garbage``, ``empty``, or None for none.
    :param text: the answer's text, or its beginning.
    """

    path: str
    status: int
    text: str
    token: str | None = "good"
    origin: str | None = "wlcg"
    method: str = "GET"
    body: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


def _message(text: str, data: str = "null") -> str:
    return f'{{"success": false, "message": "{text}", "data": {data}}}'


STATUS = "/api/v1/task/get_status?task_id=1"
ALIVE = "/api/v1/system/is_alive"
REFUSALS: dict[str, Refusal] = {
    "auth: no credentials": Refusal(STATUS, 200, SSL, token=None),
    "auth: no credentials, get_task_parameters": Refusal(
        "/api/v1/task/get_task_parameters?task_id=1", 200, SSL, token=None
    ),
    "auth: no credentials, get_details": Refusal("/api/v1/task/get_details?task_id=1", 200, SSL, token=None),
    "auth: no credentials, get_job_descriptions": Refusal(
        "/api/v1/task/get_job_descriptions?task_id=1", 200, SSL, token=None
    ),
    "auth: no credentials, job/get_description": Refusal(
        "/api/v1/job/get_description", 200, SSL, token=None, method="POST", body='{"job_ids": [1]}'
    ),
    "auth: empty bearer": Refusal(STATUS, 200, SSL, token="empty"),
    "auth: expired": Refusal(STATUS, 403, f"{FORBIDDEN}Invalid token. Signature has expired", token="expired"),
    "auth: wrong group": Refusal(STATUS, 403, f"{FORBIDDEN}Not a member of the wlcg group", token="foreign"),
    "auth: wrong role": Refusal(
        STATUS, 403, f"{FORBIDDEN}Not a member of the wlcg/production group", token="plain", origin="wlcg.production"
    ),
    "auth: wrong role, with a colon": Refusal(
        STATUS, 403, f"{FORBIDDEN}Not a member of the wlcg/production group", token="plain", origin="wlcg:production"
    ),
    "auth: unknown vo": Refusal(STATUS, 403, f"{FORBIDDEN}Unknown vo : nosuchvo", origin="nosuchvo"),
    "auth: garbage": Refusal(STATUS, 403, f"{FORBIDDEN}Invalid token. Invalid header string", token="garbage"),
    "auth: no Origin": Refusal(STATUS, 403, "ERROR : ", origin=None),
    "auth: is_alive is open": Refusal(ALIVE, 200, '{"success": true, "message": "", "data": null}', token=None),
    "auth: is_alive with a bad token": Refusal(
        ALIVE, 403, f"{FORBIDDEN}Invalid token. Signature has expired", token="expired"
    ),
    "auth: role needed for pause": Refusal(
        "/api/v1/task/pause", 200, _message("production or pilot role required"), method="POST", body='{"task_id": 1}'
    ),
    "auth: role needed for update_job": Refusal(
        "/api/v1/pilot/update_job",
        200,
        _message("production or pilot role required"),
        method="POST",
        body='{"job_id": 1, "job_status": "running"}',
    ),
    "commands: unknown task, production role": Refusal(
        "/api/v1/task/kill",
        200,
        _message("jediTaskID=99999 not found", "2"),
        origin="wlcg.production",
        method="POST",
        body='{"task_id": 99999}',
    ),
    "addresses: latest": Refusal("/api/latest/system/is_alive", 403, "ERROR : method is_alive is forbidden"),
    "addresses: old isAlive": Refusal("/server/panda/isAlive", 403, "ERROR : method isAlive is forbidden"),
    "addresses: old getJob": Refusal("/server/panda/getJob", 403, "ERROR : method getJob is forbidden"),
    "arguments: missing": Refusal(
        "/api/v1/task/get_status", 200, _message("Argument error: missing a required argument: 'task_id'")
    ),
    "arguments: unexpected": Refusal(
        f"{STATUS}&x=1", 200, _message("Argument error: got an unexpected keyword argument 'x'")
    ),
    "arguments: text for a number": Refusal(
        "/api/v1/task/kill",
        200,
        _message("Type error: 'task_id' must be of type int, got str."),
        method="POST",
        body='{"task_id": "1"}',
    ),
    "arguments: text for the id of get_status": Refusal(
        "/api/v1/task/get_status?task_id=x", 200, _message("jediTaskID must be an integer")
    ),
    "arguments: parameters that are no object": Refusal(
        "/api/v1/task/submit",
        200,
        _message("Type error: 'task_parameters' must be of type dict, got str."),
        method="POST",
        body='{"task_parameters": "x"}',
    ),
    "arguments: keys missing at submission": Refusal(
        "/api/v1/task/submit",
        200,
        _message("failed to register task", "4"),
        method="POST",
        body='{"task_parameters": {"vo": "wlcg"}}',
    ),
    "arguments: wrong method": Refusal("/api/v1/task/kill?task_id=1", 200, _message("expecting POST, received GET")),
    "encodings: form-encoded": Refusal(
        "/api/v1/task/kill",
        200,
        _message("Type error: 'task_id' must be of type int, got str."),
        method="POST",
        body="task_id=1",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    ),
    "encodings: gzip unsaid": Refusal(
        "/api/v1/task/kill",
        500,
        "'utf-8' codec can't decode byte 0x8b in position 1: invalid start byte",
        method="POST",
        body='[gzip]{"task_id": 1}',
    ),
    "encodings: old API, plain JSON": Refusal(
        "/server/panda/relay_idds_command", 500, "Not a gzipped file (b'{\"')", method="POST", body='{"x": 1}'
    ),
    "encodings: neither header asks for JSON": Refusal(
        ALIVE, 200, "{'success': True, 'message': '', 'data': None}", headers={"Accept": "*/*", "Content-Type": ""}
    ),
    "iDDS: not configured": Refusal(
        "/server/panda/relay_idds_command",
        200,
        "[false, \"failed to execute command with No section: 'rest'\"]",
        method="POST",
        body='[gzip]{"command_name": "ping", "manager": true}',
    ),
    "iDDS, new API: not configured": Refusal(
        "/api/v1/idds/relay_idds_command",
        200,
        '{"success": ',
        method="POST",
        body='{"command_name": "ping", "manager": true}',
    ),
}
