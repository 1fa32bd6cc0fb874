"""One wait for one grid task of a function: what has been heard of it, and what is still to be asked.

Owned here: one waiter at the hub, one entry on a board, and the tally. The wait is over when the results are in, when a
job failed for good, when the service ended the task, or at the deadline. A lost message is found by the status board:
PanDA counts more finished jobs than results arrived, and the missing ones are read from what iDDS or PanDA kept. So a
wait that begins, or whose broker was away, asks the board for a look, which it shares with all others of that moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from airflow_provider_panda.broker.endpoint import BrokerEndpoint
from airflow_provider_panda.broker.hub import get_hub
from airflow_provider_panda.exceptions import BrokerError, GridError, TaskNotFoundError
from airflow_provider_panda.grid.board import Registration
from airflow_provider_panda.grid.idds.answers import RequestStatus, TransformStatus
from airflow_provider_panda.grid.idds.runs import without_reason
from airflow_provider_panda.grid.outcome import GONE, CallPolicy, Tally, Verdict
from airflow_provider_panda.grid.panda import JOBS_AT_ONCE, batches
from airflow_provider_panda.grid.reports import verified_messages, verified_results
from airflow_provider_panda.grid.stillness import Stillness
from airflow_provider_panda.grid.task import JobRecord, Phase, TaskStatus
from airflow_provider_panda.hooks.panda import PandaConnection
from airflow_provider_panda.payload.result import JobResult
from airflow_provider_panda.triggers.connections import SharedConnection, request_board, status_board
from airflow_provider_panda.triggers.event import FunctionEvent, Outcome, filled
from airflow_provider_panda.triggers.health import waiting_with

SUBSCRIBE_PATIENCE: Final = 10.0
"""Seconds to wait for a subscription before the services are asked anyway."""

LATE_REPORTS: Final = (5.0, 15.0, 40.0)
"""Seconds after PanDA ended a task at which its job reports are read again while results are missing."""

EXPLANATION_PATIENCE: Final = 15.0
"""Seconds to wait for a traceback when PanDA's record alone tells of a failure: PanDA tries the job again anyway."""

UNSEEN_LIMIT: Final = 5
"""Listings in a row without a transform after which it counts as gone."""

UNSEEN_PATIENCE: Final = 120.0
"""Seconds for which it must have been so: the first listings follow a submission within seconds."""

LONGEST_BACK_OFF: Final = 120.0
"""Most seconds between two attempts to read the record of a task that has ended, while PanDA cannot be asked."""

_OUTCOMES: Final = {
    Verdict.COMPLETE: Outcome.COMPLETE,
    Verdict.FAILED: Outcome.FAILED,
    Verdict.ENDED: Outcome.ENDED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Awaited:
    """What is waited for.

    :param task_key: key of the task.
    :param task_id: jediTaskID, or None while iDDS has not told it.
    :param task_name: PanDA task name.
    :param processing_type: PanDA processingType under which the task is listed.
    :param policy: how results are taken.
    :param deadline: Unix time in seconds after which the wait ends, or None.
    :param request_id: iDDS request, where the task went through iDDS.
    :param transform_id: iDDS transform, likewise.
    :param carried: what the operator wants back with the event.
    :param key_mark: mark of the key that signs the results, or None if that is not known.
    """

    task_key: str
    task_id: int | None
    task_name: str
    processing_type: str
    policy: CallPolicy
    deadline: float | None = None
    request_id: int | None = None
    transform_id: int | None = None
    carried: str = ""
    key_mark: str | None = None

    def is_signed_by(self, panda: PandaConnection) -> bool:
        """Whether a connection's instance secret is the one that signs the results, as far as is known."""
        return self.key_mark is None or panda.key_mark(self.task_key) == self.key_mark


class Wait:
    """One wait for one task.

    :param awaited: what is waited for.
    :param shared: the connection, as all triggers use it.
    :param log: log of the task.
    :param on_task_id: called once iDDS tells the jediTaskID.
    """

    def __init__(
        self,
        awaited: Awaited,
        shared: SharedConnection,
        *,
        log: logging.Logger | Any,
        on_task_id: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.awaited = awaited
        self.key = awaited.task_key
        self.task_id = awaited.task_id
        self.log = log
        self.shared = shared
        self.signing_key = shared.panda.signing_key(self.key)
        self.verifiable = awaited.is_signed_by(shared.panda)
        self.tally = Tally(awaited.policy)
        self.status: TaskStatus | None = None
        self.never_submitted: str | None = None
        self.unseen = 0
        self.unseen_since = 0.0
        self.unread = 0
        self.changed = asyncio.Event()
        # Until iDDS tells the task, no count says what was missed; afterwards the board's first look does.
        self.reconcile_wanted = awaited.task_id is None
        self.read_after_end = 0
        self.read: set[int] = set()
        """PandaIDs of whose record nothing new will come: it has a report, or ended without."""
        self._on_task_id = on_task_id
        self._stillness = Stillness()
        self._registration: Registration | None = None
        self._board = contextlib.ExitStack()

    async def until_over(self) -> FunctionEvent:
        """Wait until there is something to tell, at most until the deadline."""
        if not self.verifiable:
            self.log.error("%s: %s", self.key, self._other_secret())
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(waiting_with(self.shared))
            if self.shared.broker is not None:
                await self._subscribe(stack, self.shared.broker)
            stack.enter_context(self._board)
            self._watch()
            limit = self.awaited.deadline
            remaining = None if limit is None else max(0.0, limit - time.time())
            try:
                async with asyncio.timeout(remaining):
                    return await self._until_verdict()
            except TimeoutError:
                if limit is None or time.time() < limit:
                    raise
                self.log.warning("%s: deadline passed", self.key)
                if self._verdict() is Verdict.COMPLETE and self.tally.to_be_kept:
                    return self._event(Outcome.COMPLETE)  # what became of the jobs is known, only not all recorded
                return self._event(Outcome.DEADLINE)

    # --- what is heard ------------------------------------------------------------------------------------------

    async def _subscribe(self, stack: contextlib.AsyncExitStack, broker: BrokerEndpoint) -> None:
        hub = get_hub(broker, self.key[2:6])
        waiter = stack.enter_context(
            hub.wait_for(self.key, key=self.signing_key, deliver=self._take_result, on_resubscribed=self._look_again)
        )
        try:
            await waiter.subscribed(SUBSCRIBE_PATIENCE)
        except BrokerError as error:
            # The hub keeps trying; until then what the services kept is the way home.
            self.log.warning("%s: not subscribed yet (%s); going on with PanDA's record", self.key, error)

    def _watch(self) -> None:
        """Have the status of the task told: by PanDA, or by iDDS until it has given the task to PanDA."""
        self._board.close()
        awaited = self.awaited
        if self.task_id is not None:
            board = status_board(self.shared, awaited.processing_type)
            registration = board.register(self.task_id, name=awaited.task_name, deliver=self._take_status)
            self._registration = self._board.enter_context(registration)
            registration.look()
        elif awaited.request_id is not None and awaited.transform_id is not None:
            requests = request_board(self.shared)
            self._board.enter_context(requests.waiting(awaited.request_id, awaited.transform_id, self._take_transform))

    def _take_result(self, result: JobResult) -> None:
        if self.tally.add(result):
            self.changed.set()

    def _take_status(self, status: TaskStatus) -> None:
        self._note(status)
        if status.phase.terminal or (status.jobs_finished or 0) + (status.jobs_failed or 0) > self.tally.settled:
            self.reconcile_wanted = True
        self.changed.set()

    def _take_transform(self, transform: TransformStatus | None, request: RequestStatus | None) -> None:
        if self.task_id is not None:
            return
        if transform is not None and transform.task_id is not None:
            self.task_id = transform.task_id
            self.log.info("%s: iDDS gave it to PanDA as task %d", self.key, transform.task_id)
            self._on_task_id(transform.task_id)
            self._watch()
            return
        if transform is not None and transform.ended:
            self.never_submitted = without_reason(transform, request)
        elif transform is None:
            self.unseen += 1
            if self.unseen == 1:
                self.unseen_since = time.monotonic()
            if self.unseen < UNSEEN_LIMIT or time.monotonic() - self.unseen_since < UNSEEN_PATIENCE:
                return
            self.never_submitted = f"iDDS does not know transform {self.awaited.transform_id} any more"
        else:
            self.unseen = 0
            return
        self._want_reconciliation()

    def _note(self, status: TaskStatus) -> None:
        """Keep what PanDA says of the task, and log what is new in it."""
        previous, self.status = self.status, status
        if previous is None or previous.status != status.status:
            self.log.info("%s: PanDA task %d is %s", self.key, status.task_id, status.status)
        if status.error and (previous is None or previous.error != status.error):
            self.log.warning("%s: PanDA says: %s", self.key, status.error)
        if (hint := self._stillness.hint(status)) is not None:
            self.log.warning("%s: %s", self.key, hint)

    def _look_again(self) -> None:
        """Ask what messages may have told meanwhile."""
        if self._registration is not None:
            self._registration.look()
        else:
            self._want_reconciliation()

    def _want_reconciliation(self) -> None:
        self.reconcile_wanted = True
        self.changed.set()

    # --- what it amounts to -------------------------------------------------------------------------------------

    async def _until_verdict(self) -> FunctionEvent:
        while True:
            self.changed.clear()
            if self.reconcile_wanted and self._verdict() is Verdict.WAIT:
                self.reconcile_wanted = False
                await self._reconcile()
            verdict = self._verdict()
            if verdict is Verdict.COMPLETE and self.tally.to_be_kept:
                if not self.tally.explained and not self._ended():
                    await self._until_explained()
                self.log.info("%s: waiting until PanDA's record holds %d value(s)", self.key, self.tally.returned)
                await self._until_recorded()
                return self._event(Outcome.COMPLETE)
            if verdict is Verdict.COMPLETE and self._event(Outcome.COMPLETE).results is None:
                await self._until_recorded()
                return self._event(Outcome.COMPLETE)
            if verdict is Verdict.ENDED and self._succeeded_in_part():
                self.tally.give_up("PanDA ended the task, and no value of this job came home")
                continue
            if verdict is not Verdict.WAIT:
                if not self.tally.explained and not self._ended():
                    await self._until_explained()
                return self._event(_OUTCOMES[verdict])
            if self.never_submitted is not None and not self.reconcile_wanted:
                return self._event(Outcome.ENDED)
            if self._ended():
                # Job reports can follow the end of the task; a few looks, then it is over.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pause_after_end()):
                        await self.changed.wait()
                self.reconcile_wanted = True
            else:
                await self.changed.wait()

    def _pause_after_end(self) -> float:
        """Return the seconds to the next look at the record of a task that has ended."""
        pause = LATE_REPORTS[max(self.read_after_end - 1, 0)]
        return min(pause * 2.0 ** min(self.unread, 10), max(pause, LONGEST_BACK_OFF))

    def _verdict(self) -> Verdict:
        reconciled = self.read_after_end > len(LATE_REPORTS) or (
            # PanDA says itself that these jobs have no result to wait for.
            self.read_after_end > 0 and self.status is not None and self.status.status not in ("done", "finished")
        )
        return self.tally.verdict(self.status.phase if self.status else None, reconciled=reconciled)

    def _succeeded_in_part(self) -> bool:
        """Whether missing results are failures among values, which the call collects."""
        collects = self.awaited.policy.on_job_error == "collect"
        return collects and self.status is not None and self.status.phase in (Phase.DONE, Phase.PARTIAL)

    def _ended(self) -> bool:
        return self.status is not None and self.status.phase.terminal

    # --- what is asked ------------------------------------------------------------------------------------------

    async def _reconcile(self) -> None:
        """Read from iDDS and PanDA what messages may have told already; errors are logged and asked again later."""
        await self._read_idds()
        await self._read_panda()

    async def _read_idds(self) -> None:
        """Read the messages that iDDS stored; it may store none."""
        if self.awaited.request_id is None:
            return
        try:
            bodies = await self.shared.idds.messages(
                self.awaited.request_id, transform_id=self.awaited.transform_id, internal_id=self.key
            )
        except GridError as error:
            self.log.warning("%s: iDDS could not be asked for stored results: %s", self.key, error)
            return
        for batch in batches(await asyncio.to_thread(self._verified_messages, bodies), JOBS_AT_ONCE):
            for result in batch:
                self.tally.add(result)
            await asyncio.sleep(0)

    async def _read_panda(self) -> None:
        if self.task_id is None:
            return
        self.shared.counts.reconciliations += 1
        try:
            self._note(await self.shared.client.status(self.task_id))
            ended = self._ended()
            async for records in self.shared.client.record_batches(self.task_id, without=self.read):
                # Verifying reports takes longer than the loop may be held, and all at once are too large to be held.
                for result in await asyncio.to_thread(self._verified, records):
                    self.tally.add(result)
                for record in records:
                    self.tally.add_record(record)
                self.read |= {each.panda_id for each in records if each.report is not None or each.status in GONE}
                if self._verdict() is not Verdict.WAIT:
                    return
        except TaskNotFoundError:
            return  # normal for up to a minute after submission
        except GridError as error:
            self.unread += 1
            if self.unread == 1:
                self.log.warning("%s: PanDA could not be asked; it is asked again: %s", self.key, error)
            return
        self.unread = 0
        if ended:
            self.read_after_end += 1

    def _verified(self, records: list[JobRecord]) -> list[JobResult]:
        return list(verified_results(records, key=self.signing_key, task_key=self.key))

    def _verified_messages(self, bodies: list[Any]) -> list[JobResult]:
        return list(verified_messages(bodies, key=self.signing_key, task_key=self.key))

    async def _until_explained(self) -> None:
        """Give the next attempt of a job a moment to tell what the last one's lost message would have told."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EXPLANATION_PATIENCE):
                while not self.tally.explained and self._verdict() is not Verdict.WAIT:
                    self.changed.clear()
                    await self.changed.wait()

    async def _until_recorded(self) -> None:
        """Wait until PanDA's record holds every value: a worker reads them there, of this try or of the next one."""
        while self.task_id is None:  # iDDS is slower to tell it than the jobs were
            if self.never_submitted is not None:
                return
            self.changed.clear()
            await self.changed.wait()
        pause = 2.0
        while True:
            with contextlib.suppress(GridError):
                self.status = await self.shared.client.status(self.task_id)
                if self._ended() or (self.status.jobs_finished or 0) >= self.tally.returned:
                    return
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 60.0)

    # --- what is told -------------------------------------------------------------------------------------------

    def _other_secret(self) -> str:
        return (
            f"the instance secret of connection {self.shared.panda.conn_id} is not the one that it was submitted with, "
            "so its results cannot be verified. Clear the task, or restore the secret and restart the triggerer"
        )

    def _now_known(self) -> dict[str, Any]:
        error = self.status.error if self.status else self.never_submitted
        if not self.verifiable:
            error = f"{self._other_secret()}. {error or ''}".rstrip()
        return {
            "task_id": self.task_id,
            "ended": self._ended() or self.never_submitted is not None,
            "status": self.status.status if self.status else None,
            "error": error,
        }

    def _event(self, outcome: Outcome) -> FunctionEvent:
        event = FunctionEvent(
            outcome=outcome,
            task_key=self.key,
            n_jobs=self.awaited.policy.n_jobs,
            request_id=self.awaited.request_id,
            transform_id=self.awaited.transform_id,
            task_name=self.awaited.task_name,
            carried=self.awaited.carried,
            **self._now_known(),
        )
        return filled(event, self.tally)
