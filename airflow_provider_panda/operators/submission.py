"""What operators do around a submission: settle what an earlier try left, and leave the ids where they are found."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from airflow_provider_panda import configuration
from airflow_provider_panda.exceptions import GridError
from airflow_provider_panda.hooks.panda import PandaConnection, PandaHook
from airflow_provider_panda.links import LINK_KEY, task_url
from airflow_provider_panda.operators import earlier, way
from airflow_provider_panda.operators.earlier import UNENDED_KEPT, Choice, Left, Stage, Standing, choose
from airflow_provider_panda.operators.underway import Underway
from airflow_provider_panda.operators.way import Found, Submission
from airflow_provider_panda.triggers.ids import REQUEST_ID_KEY, TASK_ID_KEY, TASK_KEY_KEY, TRANSFORM_ID_KEY

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

log = logging.getLogger(__name__)

T = TypeVar("T")

LISTED_AFTER: Final = 20.0
"""Seconds within which PanDA lists a task that it has taken (facts/panda.md section 3)."""

LOOK_EVERY: Final = 1.0
"""Seconds between two looks for such a task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft(Generic[T]):
    """What would be submitted under one key.

    :param note: what later tries are told of it.
    :param content: what the operator submits.
    """

    note: Left
    content: T


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun(Generic[T]):
    """A submission whose note is written.

    :param note: what later tries are told.
    :param content: what is to be submitted.
    :param known: what is submitted already under the note's key, if anything was found.
    """

    note: Left
    content: T
    known: Submission | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How an operator reaches what an earlier try left.

    :param find: looks for it by its name.
    :param standing: what a state that it is found in means.
    :param end: ends it.
    """

    find: Callable[[Left], Found | None]
    standing: Callable[[str], Standing]
    end: Callable[[Submission], object]


def begin(
    context: Context,
    *,
    own_key: str,
    draft: Callable[[str], Draft[T]],
    reach: Reach,
    pause: Callable[[float], object] = time.sleep,
) -> Begun[T]:
    """Settle what an earlier try left, and leave word of what is about to be submitted.

    :param context: of the task instance.
    :param own_key: key of this try.
    :param draft: makes what is submitted under a key.
    :param reach: how what was left is reached.
    :param pause: waits for the seconds given.
    :raises ConfigurationError: the option ``[panda] on_retry`` has another value.
    :raises GridError: what might be taken up cannot be asked for.
    """
    left = earlier.read(context)
    choice, made, known = Choice.NOTHING, None, None
    if left is not None:
        choice, made, known = _considered(left, own_key=own_key, draft=draft, reach=reach)
    if made is None or choice is not Choice.ATTACH:
        made, known = draft(own_key), None
    unended = _ended(left, made.note, choice, own_key=own_key, reach=reach, pause=pause)
    note = replace(made.note, by=own_key, unended=unended)
    if known is not None:
        note = note.with_ids(known)
    earlier.write(context, note)
    return Begun(note=note, content=made.content, known=known)


def _considered(
    left: Left, *, own_key: str, draft: Callable[[str], Draft[T]], reach: Reach
) -> tuple[Choice, Draft[T] | None, Submission | None]:
    """Return what becomes of what was left, and what is submitted and known where it is taken up."""
    on_retry = configuration.on_retry()
    likely = choose(left, own_key=own_key, on_retry=on_retry, digest=left.digest, standing=Standing.UNLISTED)
    if likely is not Choice.ATTACH:
        log.info("%s: an earlier try left %s, which got as far as %s", own_key, left.key, left.stage.value)
        return likely, None, None
    made = draft(left.key)
    if left.key == own_key:  # a second execution: the submission itself looks
        return Choice.ATTACH, made, None
    found = reach.find(left) if made.note.digest == left.digest else None
    standing = Standing.UNLISTED if found is None else reach.standing(found.status)
    choice = choose(left, own_key=own_key, on_retry=on_retry, digest=made.note.digest, standing=standing)
    if choice is Choice.ATTACH:
        log.info(
            "%s: takes up what an earlier try submitted as %s and never waited for: %s (%s)",
            own_key, left.key, "not listed" if found is None else found.submission, standing.value,
        )  # fmt: skip
        return choice, made, None if found is None else found.submission
    reason = "this try would submit something else" if made.note.digest != left.digest else "it is over"
    log.info("%s: does not take up what an earlier try submitted as %s: %s", own_key, left.key, reason)
    return choice, None, None


def _ended(
    left: Left | None, note: Left, choice: Choice, *, own_key: str, reach: Reach, pause: Callable[[float], object]
) -> tuple[Left, ...]:
    """End what is not taken up, and return what could not be ended."""
    if left is None:
        return ()
    targets = list(left.unended)
    if choice is Choice.END:
        targets.append(replace(left, unended=()))
    kept = [target for target in targets if not _end(target, note, own_key=own_key, reach=reach, pause=pause)]
    return tuple(kept[-UNENDED_KEPT:])


def _end(left: Left, note: Left, *, own_key: str, reach: Reach, pause: Callable[[float], object]) -> bool:
    """End what a try left, and return whether nothing of it is known to be there any more."""
    # The connection may lead to another server by now, where the same ids are other tasks.
    target = left.submission if left.server == note.server else None
    try:
        if target is None:
            target = _looked_for(left, reach, pause)
        if target is None:
            log.info("%s: of %s, which an earlier try may have submitted, nothing is there", own_key, left.name)
            return True
        if reach.end(target):
            log.info("%s: killed %s, which an earlier try left", own_key, target)
    except GridError as error:
        log.warning(
            "%s: %s of an earlier try was not killed: %s. A further try or `airflow panda reap` does",
            own_key, target or left.name, error,
        )  # fmt: skip
        return False
    return True


def _looked_for(left: Left, reach: Reach, pause: Callable[[float], object]) -> Submission | None:
    """Return what was submitted by its name, waiting as long as PanDA may take to list it."""
    while (found := reach.find(left)) is None and time.time() < left.at + LISTED_AFTER:
        pause(LOOK_EVERY)
    return None if found is None else found.submission


def deferring(context: Context, note: Left, submission: Submission) -> None:
    """Leave word that what was submitted is waited for from now on; the last thing before the deferral.

    A worker that dies in between counts as one that deferred.
    """
    earlier.write(context, replace(note.with_ids(submission), stage=Stage.DEFERRING))


def ended(context: Context, note: Left, submission: Submission | None) -> None:
    """Leave word that Airflow ended the worker, which kills what was submitted: no try is to wait for it."""
    told = note if submission is None else note.with_ids(submission)
    earlier.write(context, replace(told, stage=Stage.ENDED))


def watched(context: Context, note: Left, reach: Reach) -> Underway:
    """Return what kills a submission if Airflow ends this worker before the deferral."""

    def find() -> Submission | None:
        found = reach.find(note)
        return None if found is None else found.submission

    return Underway(note.key, find=find, kill=reach.end, tell=lambda known: ended(context, note, known))


def reach_of_tasks(hook: PandaHook, context: Context, accepted: tuple[str, ...]) -> Reach:
    """Return how PanDA tasks of earlier tries are reached, whichever way these went.

    :param hook: of this try's connection.
    :param context: of the task instance.
    :param accepted: task states that are a success for the operator.
    """

    def find(left: Left) -> Found | None:
        if left.through_idds:
            return way.find_through_idds(hook, context, left.name)
        return way.find_directly(hook, left.name, left.kind)

    return Reach(
        find=find,
        standing=lambda status: earlier.standing_of(status, accepted),
        end=lambda submission: way.kill(hook, submission),
    )


def tell_link(context: Context, connection: PandaConnection, task_id: int) -> None:
    """Leave the address of a task's page on the monitor."""
    if (url := task_url(connection.monitor_url, task_id)) is not None:
        context["ti"].xcom_push(LINK_KEY, url)


def tell_submission(context: Context, connection: PandaConnection, *, key: str, submission: Submission) -> None:
    """Leave key and ids of a task that was just taken; that of its iDDS request was left before it was.

    :param key: task key.
    :param submission: what was taken.
    """
    ti = context["ti"]
    ti.xcom_push(TASK_KEY_KEY, key)
    if submission.transform_id is not None:
        ti.xcom_push(TRANSFORM_ID_KEY, submission.transform_id)
    if submission.task_id is not None:
        tell_link(context, connection, submission.task_id)
        ti.xcom_push(TASK_ID_KEY, submission.task_id)


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
        context["ti"].xcom_push(TASK_ID_KEY, task_id)
        tell_link(context, connection, task_id)


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
