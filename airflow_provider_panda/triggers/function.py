"""Wait for the results of one grid task: subscribe, reconcile once, then wait for messages.

Owned here: one waiter at the hub, one entry on the status board, and the tally. The trigger fires once, when the
results are in, when a job fails for good, when PanDA ended the task, or at the deadline. A lost message is found by the
status board: PanDA counts more finished jobs than results arrived, and the missing ones are read from its own record.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator
from typing import Any, Final

from airflow.providers.common.compat.sdk import XCom
from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_panda.broker.hub import get_hub
from airflow_provider_panda.exceptions import BrokerError, GridError, TaskNotFoundError
from airflow_provider_panda.grid.outcome import CallPolicy, Tally, Verdict
from airflow_provider_panda.grid.reports import verified_results
from airflow_provider_panda.grid.task import JobRecord, Phase, TaskStatus
from airflow_provider_panda.payload import envelope
from airflow_provider_panda.payload.result import JobResult
from airflow_provider_panda.triggers.connections import SharedConnection, shared_connection, status_board
from airflow_provider_panda.triggers.event import FunctionEvent, Outcome, inline_results, shorten

SUBSCRIBE_PATIENCE: Final = 10.0
"""Seconds to wait for a subscription before PanDA is asked anyway."""

LATE_REPORTS: Final = (5.0, 15.0, 40.0)
"""Seconds after PanDA ended a task at which its job reports are read again while results are missing."""

EXPLANATION_PATIENCE: Final = 15.0
"""Seconds to wait for a traceback when PanDA's record alone tells of a failure: PanDA tries the job again anyway."""

_OUTCOMES: Final = {
    Verdict.COMPLETE: Outcome.COMPLETE,
    Verdict.FAILED: Outcome.FAILED,
    Verdict.ENDED: Outcome.ENDED,
}

_kills: set[asyncio.Task[None]] = set()
"""Kills under way: the loop keeps only weak references to tasks."""


class PandaFunctionTrigger(BaseTrigger):
    """Wait for the results of one PanDA task that runs a function.

    :param panda_conn_id: connection of type ``panda``.
    :param task_key: key of the task.
    :param task_id: jediTaskID.
    :param task_name: PanDA task name.
    :param processing_type: PanDA processingType under which the task is listed.
    :param policy: how results are taken (a :class:`CallPolicy`, or the dictionary of its fields).
    :param deadline: Unix time in seconds after which the wait ends, or None.
    :param not_before: Unix time in seconds before which the trigger does not fire, or None.
    """

    def __init__(
        self,
        *,
        panda_conn_id: str,
        task_key: str,
        task_id: int,
        task_name: str,
        processing_type: str,
        policy: CallPolicy | dict[str, Any],
        deadline: float | None = None,
        not_before: float | None = None,
        **_newer: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.panda_conn_id = panda_conn_id
        self.task_key = task_key
        self.panda_task_id = task_id
        self.task_name = task_name
        self.processing_type = processing_type
        self.policy = policy if isinstance(policy, CallPolicy) else CallPolicy(**policy)
        self.deadline = deadline
        self.not_before = not_before

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what is needed to make this trigger again in a triggerer."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "panda_conn_id": self.panda_conn_id,
                "task_key": self.task_key,
                "task_id": self.panda_task_id,
                "task_name": self.task_name,
                "processing_type": self.processing_type,
                "policy": dataclasses.asdict(self.policy),
                "deadline": self.deadline,
                "not_before": self.not_before,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and fire once."""
        shared = await shared_connection(self.panda_conn_id)
        event = await _Wait(self, shared).until_over()
        self.log.info(
            "%s: %s; %d result(s), %d failure(s), PanDA says %s",
            self.task_key,
            event.outcome.value,
            self.policy.n_jobs - len(event.failures) - len(event.missing),
            len(event.failures),
            event.status or "nothing yet",
        )
        if self.not_before is not None:
            # The scheduler tells nobody that it has heard of the deferral; time is all there is to wait for.
            await asyncio.sleep(self.not_before - time.time())
        yield TriggerEvent(event.to_json())

    async def on_kill(self) -> None:
        """Kill the grid task after a user's mark or clear.

        Airflow grants about one second and calls this by mistake when a stalled triggerer wakes up after its triggers
        were given to another (facts/airflow.md section 2), so the work goes to a task of its own that looks first.
        """
        kill = asyncio.create_task(self._kill_unless_still_waited_for(), name=f"kill {self.task_key}")
        _kills.add(kill)
        kill.add_done_callback(_kills.discard)
        await asyncio.shield(kill)

    async def _kill_unless_still_waited_for(self) -> None:
        try:
            if await self._is_still_waited_for():
                self.log.info("%s: another triggerer waits for it now; not killed", self.task_key)
                return
            shared = await shared_connection(self.panda_conn_id)
            await shared.client.kill(self.panda_task_id)
            self.log.info("%s: PanDA task %d killed by the user's action", self.task_key, self.panda_task_id)
        except Exception:
            self.log.exception(
                "%s: PanDA task %d could not be killed; kill it by hand: pbook, kill(%d)",
                self.task_key,
                self.panda_task_id,
                self.panda_task_id,
            )

    async def _is_still_waited_for(self) -> bool:
        """Tell a reassigned trigger from a killed one: the task is deferred, and on this very grid task.

        A cleared task may already be deferred again, but then on its next try's grid task.
        """
        from asgiref.sync import sync_to_async

        ti = self.task_instance
        if ti is None:
            return False
        # Both calls go to the supervisor by a blocking socket: never on the loop.
        states = await sync_to_async(_task_states)(ti)
        if "deferred" not in states:
            return False
        current = await sync_to_async(XCom.get_one)(
            key="panda_task_id", dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id, map_index=ti.map_index
        )
        return bool(current == self.panda_task_id)


def _task_states(ti: Any) -> set[str]:
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    states = RuntimeTaskInstance.get_task_states(
        dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id], map_index=ti.map_index
    )
    return {str(state) for by_task in states.values() for state in by_task.values()}


class _Wait:
    """One wait for one task: what has been heard, and what is still to be asked."""

    def __init__(self, trigger: PandaFunctionTrigger, shared: SharedConnection) -> None:
        self.trigger = trigger
        self.key = trigger.task_key
        self.log = trigger.log
        self.shared = shared
        self.signing_key = envelope.derive_key(shared.panda.instance_secret or "", self.key)
        self.tally = Tally(trigger.policy)
        self.status: TaskStatus | None = None
        self.changed = asyncio.Event()
        self.reconcile_wanted = True
        self.read_after_end = 0

    async def until_over(self) -> FunctionEvent:
        """Wait until there is something to tell, at most until the deadline."""
        async with contextlib.AsyncExitStack() as stack:
            if self.shared.broker is not None:
                await self._subscribe(stack)
            board = status_board(self.shared, self.trigger.processing_type)
            stack.enter_context(
                board.register(self.trigger.panda_task_id, name=self.trigger.task_name, deliver=self._take_status)
            )
            limit = self.trigger.deadline
            remaining = None if limit is None else max(0.0, limit - time.time())
            try:
                async with asyncio.timeout(remaining):
                    return await self._until_verdict()
            except TimeoutError:
                if limit is None or time.time() < limit:
                    raise
                self.log.warning("%s: deadline passed", self.key)
                return self._event(Outcome.DEADLINE)

    async def _subscribe(self, stack: contextlib.AsyncExitStack) -> None:
        assert self.shared.broker is not None
        hub = get_hub(self.shared.broker, self.key[2:6])
        waiter = stack.enter_context(
            hub.wait_for(
                self.key, key=self.signing_key, deliver=self._take_result, on_resubscribed=self._want_reconciliation
            )
        )
        try:
            await waiter.subscribed(SUBSCRIBE_PATIENCE)
        except BrokerError as error:
            # The hub keeps trying; until then PanDA's own record is the way home.
            self.log.warning("%s: not subscribed yet (%s); going on with PanDA's record", self.key, error)

    def _take_result(self, result: JobResult) -> None:
        if self.tally.add(result):
            self.changed.set()

    def _take_status(self, status: TaskStatus) -> None:
        self._note(status)
        known = len(self.tally.values) + len(self.tally.final_failures)
        if status.phase.terminal or (status.jobs_finished or 0) + (status.jobs_failed or 0) > known:
            self.reconcile_wanted = True
        self.changed.set()

    def _note(self, status: TaskStatus) -> None:
        """Keep what PanDA says of the task, and log what is new in it."""
        previous, self.status = self.status, status
        if previous is None or previous.status != status.status:
            self.log.info("%s: PanDA task %d is %s", self.key, status.task_id, status.status)
        if status.error and (previous is None or previous.error != status.error):
            self.log.warning("%s: PanDA says: %s", self.key, status.error)

    def _want_reconciliation(self) -> None:
        self.reconcile_wanted = True
        self.changed.set()

    async def _until_verdict(self) -> FunctionEvent:
        while True:
            self.changed.clear()
            if self.reconcile_wanted and self._verdict() is Verdict.WAIT:
                self.reconcile_wanted = False
                await self._reconcile()
            verdict = self._verdict()
            if verdict is Verdict.COMPLETE and (event := self._event(Outcome.COMPLETE)).results is None:
                await self._until_recorded()
                return dataclasses.replace(
                    event, ended=self._ended(), status=self.status.status if self.status else None
                )
            if verdict is Verdict.ENDED and self._succeeded_in_part():
                self.tally.give_up("PanDA ended the task, and no value of this job came home")
                continue
            if verdict is not Verdict.WAIT:
                if not self.tally.explained and not self._ended():
                    await self._until_explained()
                return self._event(_OUTCOMES[verdict])
            if self._ended():
                # Job reports can follow the end of the task; a few looks, then it is over.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LATE_REPORTS[max(self.read_after_end - 1, 0)]):
                        await self.changed.wait()
                self.reconcile_wanted = True
            else:
                await self.changed.wait()

    def _verdict(self) -> Verdict:
        reconciled = self.read_after_end > len(LATE_REPORTS) or (
            # PanDA says itself that these jobs have no result to wait for.
            self.read_after_end > 0 and self.status is not None and self.status.status not in ("done", "finished")
        )
        return self.tally.verdict(self.status.phase if self.status else None, reconciled=reconciled)

    def _succeeded_in_part(self) -> bool:
        """Whether missing results are failures among values, which the call collects."""
        collects = self.trigger.policy.on_job_error == "collect"
        return collects and self.status is not None and self.status.phase in (Phase.DONE, Phase.PARTIAL)

    def _ended(self) -> bool:
        return self.status is not None and self.status.phase.terminal

    async def _reconcile(self) -> None:
        """Read from PanDA what messages may have told already; errors are logged and asked again later."""
        try:
            self._note(await self.shared.client.status(self.trigger.panda_task_id))
            ended = self._ended()
            records = await self.shared.client.job_records(self.trigger.panda_task_id)
        except TaskNotFoundError:
            return  # normal for up to a minute after submission
        except GridError as error:
            self.log.warning("%s: PanDA could not be asked: %s", self.key, error)
            return
        # Verifying thousands of reports takes longer than the loop may be held.
        for result in await asyncio.to_thread(self._verified, records):
            self.tally.add(result)
        for record in records:
            self.tally.add_record(record)
        if ended:
            self.read_after_end += 1

    def _verified(self, records: list[JobRecord]) -> list[JobResult]:
        return list(verified_results(records, key=self.signing_key, task_key=self.key))

    async def _until_explained(self) -> None:
        """Give the next attempt of a job a moment to tell what the last one's lost message would have told."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EXPLANATION_PATIENCE):
                while not self.tally.explained and self._verdict() is not Verdict.WAIT:
                    self.changed.clear()
                    await self.changed.wait()

    async def _until_recorded(self) -> None:
        """Wait until PanDA's record holds every value: for an event they are too many bytes."""
        pause = 2.0
        while True:
            with contextlib.suppress(GridError):
                self.status = await self.shared.client.status(self.trigger.panda_task_id)
                if self._ended() or (self.status.jobs_finished or 0) >= len(self.tally.values):
                    return
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 60.0)

    def _event(self, outcome: Outcome) -> FunctionEvent:
        tally = self.tally
        failures = tally.final_failures if outcome is Outcome.FAILED else tally.failures
        settled = {failure.job for failure in tally.failures}
        return FunctionEvent(
            outcome=outcome,
            task_key=self.key,
            task_id=self.trigger.panda_task_id,
            n_jobs=self.trigger.policy.n_jobs,
            ended=self._ended(),
            status=self.status.status if self.status else None,
            error=self.status.error if self.status else None,
            results=inline_results(tally.values[job] for job in sorted(tally.values))
            if outcome is Outcome.COMPLETE
            else [],
            failures=shorten(failures),
            missing=tuple(job for job in tally.missing if job not in settled),
        )
