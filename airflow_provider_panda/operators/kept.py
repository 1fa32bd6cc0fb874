"""Values of earlier tries that a retry keeps: reads and leaves the note of them, and asks PanDA's record what it has.

The note is in the task state store, which outlives tries and clears. It says what was sent, not what came of it: that
PanDA's record says when the next try asks, however this one ended. A success removes it.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_panda.exceptions import MissingResultsError, TaskNotFoundError
from airflow_provider_panda.operators import missing
from airflow_provider_panda.operators.homecoming import Reader, bring_home
from airflow_provider_panda.operators.missing import NOTE_LIMIT, Note, Rest, Sent

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_panda.hooks.panda import PandaConnection, PandaHook
    from airflow_provider_panda.operators.way import Submission
    from airflow_provider_panda.triggers.event import FunctionEvent

log = logging.getLogger(__name__)

NOTE_KEY: Final = "panda_sent_jobs"
"""Task state key of the note."""


class Keeping:
    """The values of one task instance, of this try and of those before it.

    :param context: of the task instance.
    :param hook: the connection's hook.
    :param connection: its fields.
    :param key: key of this try.
    :param allow_pickle: whether the call asked for cloudpickle values.
    """

    def __init__(
        self, context: Context, hook: PandaHook, connection: PandaConnection, *, key: str, allow_pickle: bool
    ) -> None:
        self._store, self._hook, self._connection = context.get("task_state_store"), hook, connection
        self._key, self._allow_pickle = key, allow_pickle

    # --- way out ---

    def rest_of(self, *, call: str, n_jobs: int) -> Rest:
        """Return which jobs this try has to send: all others have a value in PanDA's record.

        :param call: hash of function and arguments.
        :param n_jobs: number of jobs of the call.
        :raises GridError: PanDA or iDDS cannot be asked.
        """
        whole, key = missing.everything(call=call, n_jobs=n_jobs), self._key
        note = self._note()
        if note is None:
            return whole
        if not note.fits(call=call, n_jobs=n_jobs):
            log.info("%s: function or arguments are not those of the tries before: all %d jobs are sent", key, n_jobs)
            return whole
        tries = tuple(self._known(sent) for sent in note.tries)
        rest = missing.decide(replace(note, tries=tries), [self._readable(sent) for sent in tries], key=key)
        if not rest.earlier:
            return rest
        pending = rest.noted(Sent(task_key=key, jobs=rest.jobs)).to_text()
        if len(pending) > NOTE_LIMIT:
            log.warning(
                "%s: %d jobs have values of earlier tries, but which they are takes %d bytes, and %d is the limit: "
                "all %d are sent again", key, rest.n_kept, len(pending), NOTE_LIMIT, n_jobs,
            )  # fmt: skip
            return whole
        log.info(
            "%s: %d of %d job(s) have values of earlier tries (%s); %d to send",
            key, rest.n_kept, n_jobs, ", ".join(sent.task_key for sent in rest.earlier), len(rest.jobs),
        )  # fmt: skip
        if rest.jobs and self._store is not None:
            # Before anything is submitted: should this try be executed once more, its task stands for these jobs.
            self._store.set(NOTE_KEY, pending)
        return rest

    def _note(self) -> Note | None:
        text = None if self._store is None else self._store.get(NOTE_KEY)
        if text is None:
            return None
        try:
            return Note.from_text(text)
        except ValueError as error:
            log.warning("%s: what earlier tries sent cannot be read (%s): all jobs are sent", self._key, error)
            return None

    def _known(self, sent: Sent) -> Sent:
        """Return a try with the id of its task, which iDDS may have told nobody while it was waited for."""
        if sent.task_id is not None or sent.request_id is None or sent.transform_id is None:
            return sent
        try:
            task_id = self._hook.idds_grid().task_id(sent.request_id, sent.transform_id)
        except TaskNotFoundError:
            task_id = None
        if task_id is None and sent.task_name:
            found = self._hook.grid().find(sent.task_name)
            task_id = None if found is None else found.task_id
        return sent if task_id is None else replace(sent, task_id=task_id, task_name="")

    def _readable(self, sent: Sent) -> set[int]:
        """Return the jobs that have a value of an earlier try."""
        if sent.task_key == self._key or sent.task_id is None:
            return set()
        try:
            found = self._reader(sent).readable(sent.task_id, self._hook.grid())
        except TaskNotFoundError:
            found = set()
        log.info("%s: PanDA's record holds %d value(s) of task %d", self._key, len(found), sent.task_id)
        return found

    def leave(self, rest: Rest, key: str, submission: Submission) -> str:
        """Note what this try sent, for a retry; return the note if it is needed to name the jobs of this try itself.

        :param rest: what was sent.
        :param key: key of its task.
        :param submission: where it is.
        """
        own = Sent(
            task_key=key,
            jobs=rest.jobs,
            task_id=submission.task_id,
            request_id=submission.request_id,
            transform_id=submission.transform_id,
            task_name=submission.task_name if submission.task_id is None else "",
        )
        text = rest.noted(own).to_text()
        try:
            if self._store is not None:
                self._store.set(NOTE_KEY, text)
        except Exception as error:
            log.warning("%s: what was sent could not be noted (%s): a retry will send it again", key, error)
        return text if rest.n_kept else ""

    # --- way back ---

    def bring_home(self, came: FunctionEvent, note: Note) -> list[Any]:
        """Return what each job of the call came to, in this try or in an earlier one whose values are kept.

        :param came: what the trigger of this try told.
        :param note: what this try sent, and those before it.
        :raises MissingResultsError: a value is not in PanDA's record.
        :raises ValueDecodeError: a value cannot be rebuilt here.
        :raises GridError: PanDA cannot be asked.
        """
        *earlier, own = note.tries
        home = bring_home(came, self._reader(own), self._hook.grid())
        return self._merged(dict(zip(own.jobs, home, strict=True)), earlier, note.n_jobs)

    def all_values(self, rest: Rest) -> list[Any]:
        """Return the values of a call of which nothing is left to be sent, and be done with it."""
        values = self._merged({}, rest.earlier, rest.n_jobs)
        log.info("%s: earlier tries brought all %d value(s): no grid task", self._key, rest.n_jobs)
        self.forget()
        return values

    def _merged(self, own: dict[int, Any], earlier: list[Sent] | tuple[Sent, ...], n_jobs: int) -> list[Any]:
        home = dict(own)
        for sent in earlier:
            if sent.task_id is not None:
                home.update(self._reader(sent).values(sent.task_id, self._hook.grid(), without=home))
        if lost := [job for job in range(n_jobs) if job not in home]:
            raise MissingResultsError(
                f"{self._key}: PanDA's record has lost the values of {len(lost)} of {n_jobs} job(s) that earlier tries "
                "brought. The next try sends these jobs again",
                task_key=self._key,
                task_id=None,
                jobs=lost,
            )
        return [home[job] for job in range(n_jobs)]

    def _reader(self, sent: Sent) -> Reader:
        return Reader(
            task_key=sent.task_key,
            signing_key=self._connection.signing_key(sent.task_key),
            allow_pickle=self._allow_pickle,
            result_store=self._connection.result_store,
            jobs=sent.jobs,
        )

    def forget(self) -> None:
        """Remove the note after a success: a task instance that is cleared then runs every job again."""
        try:
            if self._store is not None:
                self._store.delete(NOTE_KEY)
        except Exception as error:
            log.warning(
                "%s: %s could not be removed from the task state store (%s): remove it before this task instance is "
                "cleared, or it will return the values that it has", self._key, NOTE_KEY, error,
            )  # fmt: skip
