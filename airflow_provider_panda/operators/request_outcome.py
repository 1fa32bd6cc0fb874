"""What became of iDDS requests, as an operator or a sensor returns it or raises it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_panda.exceptions import (
    DeadlineExceededError,
    GridError,
    GridTaskError,
    GridTaskFailedError,
)
from airflow_provider_panda.grid.idds.answers import RequestStatus, TransformStatus
from airflow_provider_panda.grid.retry import RetryPolicy, again
from airflow_provider_panda.operators.outcome import failure_reasons
from airflow_provider_panda.triggers.event import Outcome
from airflow_provider_panda.triggers.request import RequestsEvent

if TYPE_CHECKING:
    from airflow_provider_panda.grid.idds.client import IddsClient
    from airflow_provider_panda.hooks.panda import PandaHook

log = logging.getLogger(__name__)

_PATIENT: Final = RetryPolicy(attempts=6, first=2.0, longest=30.0)
"""How often is asked for what a success is about: the request would run once more otherwise."""


def request_value(request: RequestStatus) -> dict[str, Any]:
    """Return what a request came to, as plain JSON."""
    return {
        "request_id": request.request_id,
        "status": request.status,
        "transforms": [
            {"id": each.transform_id, "name": each.name, "status": each.status, "task_id": each.task_id}
            for each in request.transforms
        ],
    }


def current_requests(came: RequestsEvent, idds: Callable[[], IddsClient]) -> list[RequestStatus]:
    """Return the requests with their transforms, asked for again where an event could not carry them.

    :raises GridError: iDDS cannot be asked.
    """
    if not came.shortened:
        return list(came.requests)
    client, found = idds(), []
    for request in came.requests:
        ask = partial(client.request, request.request_id)
        found.append(again(_PATIENT, f"iDDS request {request.request_id}", ask) or request)
    return found


def requests_error(came: RequestsEvent, *, accepted: Collection[str], hook: PandaHook, key: str) -> GridTaskError:
    """Return the error that tells why a wait for requests ended without success.

    :param came: what the trigger told.
    :param accepted: states that would have been a success.
    :param hook: the connection, by which reasons are looked for that iDDS keeps to itself.
    :param key: task key, for the log.
    """
    told = " or ".join(sorted(accepted))
    if came.outcome is Outcome.FAILED:
        ids = ", ".join(map(str, came.unknown))
        return GridTaskFailedError(
            f"{key}: iDDS does not know request {ids}. Check the id, and which iDDS the connection leads to",
            task_key=key,
            task_id=None,
        )
    failed = came.failed(accepted)
    if came.outcome is Outcome.DEADLINE or not failed:
        waiting = [f"{each.request_id} is {each.status!r}" for each in came.requests if each.status not in accepted]
        waiting += [f"{request_id} was not shown" for request_id in came.unknown]
        return DeadlineExceededError(
            f"{key}: not {told} before its deadline: iDDS request {'; '.join(waiting)}", task_key=key, task_id=None
        )
    first = failed[0]
    if came.shortened:
        try:
            first = hook.idds().request(first.request_id) or first
        except GridError as error:
            log.warning("%s: iDDS request %d could not be read again: %s", key, first.request_id, error)
    others = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    bad = [each for each in first.transforms if each.ended and each.status != "Finished"]
    said = first.errors or _reason(bad, hook, key) or "iDDS tells no reason; its operators can look for it in its logs"
    names = ", ".join(f"{each.name} ({each.status})" for each in bad[:5]) + (", ..." if len(bad) > 5 else "")
    return GridTaskFailedError(
        f"{key}: iDDS request {first.request_id}{others} ended as {first.status!r}, not {told}: {said}. "
        f"{len(bad)} of {len(first.transforms)} transform(s) did not finish{': ' + names if names else ''}",
        task_key=key,
        task_id=next((each.task_id for each in bad if each.task_id is not None), None),
    )


def _reason(bad: list[TransformStatus], hook: PandaHook, key: str) -> str | None:
    """Return why the first transform failed of which anybody knows: iDDS's own words, else PanDA's."""
    for transform in bad:
        if transform.errors:
            return f"transform {transform.transform_id}: {transform.errors}"
    for transform in bad[:3]:
        if transform.task_id is None:
            continue
        try:
            grid = hook.grid()
            task = grid.status(transform.task_id)
        except GridError as error:
            log.warning("%s: PanDA could not be asked for task %d: %s", key, transform.task_id, error)
            return None
        reasons = failure_reasons(task, grid, key)
        said = [text for text in (task.error, reasons[0] if reasons else None) if text]
        if said:
            return f"PanDA task {task.task_id} is {task.status!r}: {'; '.join(said)}"
    return None
