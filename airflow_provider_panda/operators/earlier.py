"""What an earlier try of a task instance left, as the task state store keeps it, and what a new try makes of it.

One JSON value holds it all, for each read and each write is a request to Airflow's API: read once when a try begins,
written before the submission, and written again with the ids right before the deferral. A worker may be killed at any
point in between. So the key comes first: whatever was submitted is found by the name that is made of it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal

from airflow.providers.common.compat.sdk import AirflowException

from airflow_provider_panda.operators.way import Submission

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

log = logging.getLogger(__name__)

STORE_KEY: Final = "panda_submission"
"""Key in the task state store."""

UNENDED_KEPT: Final = 5
"""Tasks of earlier tries that are remembered until they could be killed."""

OnRetry = Literal["attach", "resubmit"]


_TEXTS: Final = ("key", "by", "name", "kind", "server", "digest")


class Stage(Enum):
    """How far a try got, as far as it could write it down."""

    SUBMITTING = "submitting"
    """Something may have been submitted under the key; nobody has waited for it."""
    DEFERRING = "deferring"
    """A trigger waits for it, or was about to."""
    ENDED = "ended"
    """Airflow ended the worker, which has killed what it submitted, or tried to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What a try left.

    :param key: task key that it submits under.
    :param by: key of the try itself: another one where it took up what a try before it had left.
    :param name: PanDA task name made of the key; of an iDDS workflow the name of its request.
    :param kind: PanDA processingType, by which the name is found.
    :param server: URL of the PanDA server: ids mean nothing on another one.
    :param through_idds: whether it went through iDDS.
    :param digest: of what it submits (:func:`digest_of`).
    :param stage: how far it got.
    :param at: Unix time in seconds at which that was written.
    :param task_id: jediTaskID, where it is known.
    :param request_id: iDDS request, likewise.
    :param transform_id: iDDS transform, likewise.
    :param unended: what tries before it left and could not be killed.
    """

    key: str
    by: str
    name: str
    kind: str
    server: str
    through_idds: bool
    digest: str
    stage: Stage = Stage.SUBMITTING
    at: float = 0.0
    task_id: int | None = None
    request_id: int | None = None
    transform_id: int | None = None
    unended: tuple[Left, ...] = ()

    @property
    def submission(self) -> Submission | None:
        """What was submitted, where its ids are known."""
        if self.task_id is None and self.request_id is None:
            return None
        return Submission(
            task_name=self.name, task_id=self.task_id, request_id=self.request_id, transform_id=self.transform_id
        )

    def with_ids(self, submission: Submission) -> Left:
        """Return it with the ids of what was submitted."""
        return replace(
            self, task_id=submission.task_id, request_id=submission.request_id, transform_id=submission.transform_id
        )

    def to_json(self) -> dict[str, Any]:
        """Return what the store keeps: a dictionary of texts and numbers."""
        fields = {name: value for name, value in asdict(self).items() if value not in (None, ())}
        fields["stage"] = self.stage.value
        if self.unended:
            fields["unended"] = [each.to_json() for each in self.unended]
        return fields

    @classmethod
    def from_json(cls, stored: Any) -> Left:
        """Return what the store kept.

        :raises ValueError: it is of another form.
        """
        try:
            texts: dict[str, Any] = {name: str(stored[name]) for name in _TEXTS}
            ids = {name: stored.get(name) for name in ("task_id", "request_id", "transform_id")}
            if any(value is not None and type(value) is not int for value in ids.values()):
                raise ValueError(f"{ids} are no ids")
            return cls(
                **texts,
                **ids,
                through_idds=bool(stored["through_idds"]),
                stage=Stage(stored["stage"]),
                at=float(stored["at"]),
                unended=tuple(cls.from_json(each) for each in stored.get("unended", ())),
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None


class Standing(Enum):
    """What became of what an earlier try left, for whoever might take it up."""

    UNLISTED = "unlisted"
    """The grid does not know it: not yet, or it was never submitted."""
    ALIVE = "alive"
    DONE = "done"
    """It ended in a state that is a success for the operator."""
    OVER = "over"
    """It failed, or was killed, or is on the way there."""


DYING: Final = frozenset({"aborting", "toabort", "tobroken"})
"""States of a PanDA task that is about to end without results."""


def standing_of(status: str, accepted: Collection[str]) -> Standing:
    """Return what a PanDA task state means for a later try.

    :param status: PanDA's own word; empty for a task that iDDS has not submitted yet.
    :param accepted: states that are a success for the operator.
    """
    from airflow_provider_panda.grid.task import phase_of  # not while a DAG file is parsed

    if status in accepted:
        return Standing.DONE
    if not status:
        return Standing.ALIVE
    if status in DYING or phase_of(status).terminal:
        return Standing.OVER
    return Standing.ALIVE


class Choice(Enum):
    """What a try does with what an earlier one left."""

    NOTHING = "nothing"
    """There is none: submit."""
    ATTACH = "attach"
    """Submit under its key, which comes to waiting for what was submitted under it."""
    END = "end"
    """Kill it, and submit under a key of one's own."""


def choose(left: Left | None, *, own_key: str, on_retry: OnRetry, digest: str | None, standing: Standing) -> Choice:
    """Decide what becomes of what an earlier try left.

    A try that deferred had its chance: its results were waited for, and its trigger may still be about to kill the
    task. One that never did has lost its worker only, and the task may be as good as new.

    :param left: what the store holds.
    :param own_key: key of this try.
    :param on_retry: ``[panda] on_retry``.
    :param digest: of what this try would submit under the earlier key, or None if that was not looked at.
    :param standing: what became of it on the grid.
    """
    if left is None:
        return Choice.NOTHING
    if left.by == own_key:
        # The same try again, perhaps by two workers: whatever it took up before, it goes on with.
        return Choice.ATTACH
    if left.stage is not Stage.SUBMITTING or on_retry == "resubmit":
        return Choice.END
    if digest != left.digest or standing is Standing.OVER:
        return Choice.END
    return Choice.ATTACH


def digest_of(what: Mapping[str, Any]) -> str:
    """Return a digest of what is submitted: of everything that the grid is given, for one key."""
    text = json.dumps(what, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


# --- the store ----------------------------------------------------------------------------------------------


def read(context: Context) -> Left | None:
    """Return what a try of this task instance left last, this one's earlier execution included."""
    store = context.get("task_state_store")
    stored = None if store is None else store.get(STORE_KEY)
    if stored is None:
        return None
    try:
        return Left.from_json(stored)
    except ValueError as error:
        log.warning(
            "task state store, %s: %s. What an earlier try left is not known; `airflow panda reap` finds it",
            STORE_KEY, error,
        )  # fmt: skip
        return None


def keys_in(stored: Any) -> list[str]:
    """Return the task keys that a stored note names: of what was submitted last, and of what could not be ended."""
    try:
        left = Left.from_json(stored)
    except ValueError:
        return []
    return [left.key, left.by, *(each.key for each in left.unended)]


def write(context: Context, left: Left) -> None:
    """Leave it to later tries.

    :raises AirflowException: nothing has been submitted yet, and Airflow has given this try up.
    """
    store = context.get("task_state_store")
    if store is None:
        return
    try:
        store.set(STORE_KEY, replace(left, at=round(time.time(), 3)).to_json())
    except Exception as error:
        if left.stage is Stage.SUBMITTING and _is_given_up(error):
            raise AirflowException(f"{left.key}: Airflow has given this try up, so nothing is submitted") from error
        # Without the note all goes well unless this worker dies as well: no reason to fail.
        log.warning(
            "%s: could not write to the task state store: %s. A later try may not find what this one submits",
            left.key, error,
        )  # fmt: skip


def _is_given_up(error: Exception) -> bool:
    """Tell whether Airflow knows this try no more: a scheduler that took its worker for lost has made a new one of it.

    Its id is then another one, and its API answers 404 with a reason (airflow-sdk 1.3.2, ``ErrorResponse``).
    """
    detail = getattr(getattr(error, "error", None), "detail", None)
    if not isinstance(detail, Mapping) or detail.get("status_code") != 404:
        return False
    told = detail.get("detail")
    reason = told.get("detail") if isinstance(told, Mapping) else None
    return isinstance(reason, Mapping) and reason.get("reason") == "not_found"
