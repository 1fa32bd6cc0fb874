"""What operators do around a submission: end what an earlier try left, and leave the ids where they are found."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from airflow_provider_panda.exceptions import GridError
from airflow_provider_panda.hooks.panda import PandaConnection, PandaHook
from airflow_provider_panda.links import LINK_KEY, task_url
from airflow_provider_panda.operators import way
from airflow_provider_panda.operators.way import Submission
from airflow_provider_panda.triggers.ids import REQUEST_ID_KEY, TASK_ID_KEY, TASK_KEY_KEY, TRANSFORM_ID_KEY

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

log = logging.getLogger(__name__)

_NONE: Final = 0
"""What stands in the task state store for an id that a try does not have."""


def remember(context: Context, name: str, value: str | int) -> None:
    """Write to the task state store, which outlives this try."""
    store = context.get("task_state_store")
    if store is None:
        return
    try:
        store.set(name, value)
    except Exception as error:
        # The name look-up finds the task as well; losing this note must not fail the submission.
        log.warning("could not write %s to the task state store: %s", name, error)


def left_by_earlier_try(context: Context, key: str, *, id_key: str) -> int | None:
    """Return the id that an earlier try of this task instance left in the task state store.

    :param key: key of this try.
    :param id_key: name under which the id is stored.
    """
    (earlier_id,) = _left(context, key, [id_key])
    return earlier_id


def _left(context: Context, key: str, names: Sequence[str]) -> list[int | None]:
    """Return the ids that an earlier try left under these names; each look is a request to Airflow's API."""
    store = context.get("task_state_store")
    if store is None or store.get(TASK_KEY_KEY) in (None, key):  # as in every first try
        return [None for _ in names]
    found = [store.get(name) for name in names]
    return [value if isinstance(value, int) and value != _NONE else None for value in found]


def tell_link(context: Context, connection: PandaConnection, task_id: int) -> None:
    """Leave the address of a task's page on the monitor."""
    if (url := task_url(connection.monitor_url, task_id)) is not None:
        context["ti"].xcom_push(LINK_KEY, url)


def tell_submission(
    context: Context,
    connection: PandaConnection,
    *,
    key: str,
    submission: Submission,
    earlier: Submission | None = None,
) -> None:
    """Leave all ids of a task that was just taken, directly or through iDDS.

    :param key: key of this try.
    :param submission: what was taken.
    :param earlier: what an earlier try left in the task state store.
    """
    context["ti"].xcom_push(TASK_KEY_KEY, key)
    if submission.task_id is not None:
        tell_link(context, connection, submission.task_id)
    left = {} if earlier is None else _ids(earlier)
    for name, value in _ids(submission).items():
        if value is not None:
            remember(context, name, value)
            context["ti"].xcom_push(name, value)
        elif left.get(name) is not None:
            # The earlier try went the other way, and the store outlives it.
            remember(context, name, _NONE)


def _ids(submission: Submission) -> dict[str, int | None]:
    return {
        TASK_ID_KEY: submission.task_id,
        REQUEST_ID_KEY: submission.request_id,
        TRANSFORM_ID_KEY: submission.transform_id,
    }


def tell_late_id(context: Context, hook: PandaHook, connection: PandaConnection, submission: Submission) -> None:
    """Leave the jediTaskID of a task whose values came home before iDDS had told it to the trigger."""
    if submission.task_id is not None or submission.request_id is None or submission.transform_id is None:
        return
    try:
        task_id = hook.idds_grid().task_id(submission.request_id, submission.transform_id)
        if task_id is None and submission.task_name:
            # Its jobs have ended, so PanDA knows it, whatever iDDS has noted yet.
            found = hook.grid().find(submission.task_name)
            task_id = None if found is None else found.task_id
    except GridError as error:
        log.info("the PanDA task of %s is not known: %s", submission, error)
        return
    if task_id is not None:
        remember(context, TASK_ID_KEY, task_id)
        context["ti"].xcom_push(TASK_ID_KEY, task_id)
        tell_link(context, connection, task_id)


def submission_of_earlier_try(context: Context, key: str) -> Submission | None:
    """Return what an earlier try of this task instance submitted, as far as it left its ids."""
    task_id, request_id, transform_id = _left(context, key, [TASK_ID_KEY, REQUEST_ID_KEY, TRANSFORM_ID_KEY])
    if task_id is None and transform_id is None:
        return None
    return Submission(task_name="", task_id=task_id, request_id=request_id, transform_id=transform_id)


def end_earlier_try(context: Context, hook: PandaHook, key: str) -> Submission | None:
    """Kill what an earlier try of this task instance left, whichever way it went; this try has a key of its own.

    :return: what it left, killed or not.
    """
    earlier = submission_of_earlier_try(context, key)
    if earlier is None:
        return None
    try:
        if way.kill(hook, earlier):
            log.info("%s: killed %s, which an earlier try left", key, earlier)
    except GridError as error:
        log.warning("%s: %s of an earlier try was not killed: %s", key, earlier, error)
    return earlier


def end_quietly(hook: PandaHook, submission: Submission, *, key: str) -> None:
    """Kill a task; an unreachable service does not hide the outcome that led here."""
    try:
        way.kill(hook, submission)
    except GridError as error:
        at = submission.task_id if submission.task_id is not None else submission.task_name or "its id"
        log.warning("%s: %s could not be killed: %s. Kill it by hand: pbook, kill(%s)", key, submission, error, at)


def end_unwatched(context: Context, hook: PandaHook) -> None:
    """Kill the task of a task instance whose trigger ended without an event: nobody waits for it any more."""
    ti = context["ti"]

    def pulled(key: str) -> int | None:
        value = ti.xcom_pull(task_ids=ti.task_id, key=key, map_indexes=ti.map_index)
        return None if value is None else int(value)

    submission = Submission(
        task_name="",
        task_id=pulled(TASK_ID_KEY),
        request_id=pulled(REQUEST_ID_KEY),
        transform_id=pulled(TRANSFORM_ID_KEY),
    )
    if submission.task_id is None and submission.transform_id is None:
        return
    log.warning("the trigger ended without a result; killing %s", submission)
    end_quietly(hook, submission, key="(resumed to fail)")
