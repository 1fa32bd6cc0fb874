"""Wait for the results of one grid task without a worker: the trigger of a function's operator."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TaskSuccessEvent, TriggerEvent

from airflow_provider_panda.exceptions import TaskNotFoundError
from airflow_provider_panda.grid.idds.runs import task_of
from airflow_provider_panda.grid.outcome import CallPolicy
from airflow_provider_panda.triggers.connections import connection_that_fits, shared_connection
from airflow_provider_panda.triggers.ending import Returns, leave_return_value, plain_values
from airflow_provider_panda.triggers.event import FunctionEvent
from airflow_provider_panda.triggers.firing import settled, turn_to_fire
from airflow_provider_panda.triggers.ids import TASK_KEY_KEY, tell_task_id
from airflow_provider_panda.triggers.kill import AT_ONCE, kill_unless_still_waited_for
from airflow_provider_panda.triggers.wait import Awaited, Wait


class PandaFunctionTrigger(BaseTrigger):
    """Wait for the results of one grid task that runs a function.

    :param panda_conn_id: connection of type ``panda``.
    :param task_key: key of the task.
    :param task_name: PanDA task name.
    :param processing_type: PanDA processingType under which the task is listed.
    :param policy: how results are taken (a :class:`CallPolicy`, or the dictionary of its fields).
    :param task_id: jediTaskID, or None while iDDS has not told it.
    :param deadline: Unix time in seconds after which the wait ends, or None.
    :param not_before: Unix time in seconds before which the trigger does not fire, or None.
    :param request_id: iDDS request, where the task went through iDDS.
    :param transform_id: iDDS transform, likewise.
    :param returns: what the task's value is, where this trigger may end the task without a worker; None: it may not.
    :param carried: what the operator wants back with the event.
    :param key_mark: mark of the key that signs the results (:meth:`PandaConnection.key_mark`), or None if that is not
        known.
    """

    def __init__(
        self,
        *,
        panda_conn_id: str,
        task_key: str,
        task_name: str,
        processing_type: str,
        policy: CallPolicy | dict[str, Any],
        task_id: int | None = None,
        deadline: float | None = None,
        not_before: float | None = None,
        request_id: int | None = None,
        transform_id: int | None = None,
        returns: Returns | None = None,
        carried: str = "",
        key_mark: str | None = None,
        **_newer: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.panda_conn_id = panda_conn_id
        self.not_before = not_before
        self.returns = returns
        self.awaited = Awaited(
            task_key=task_key,
            task_id=task_id,
            task_name=task_name,
            processing_type=processing_type,
            policy=policy if isinstance(policy, CallPolicy) else CallPolicy(**policy),
            deadline=deadline,
            request_id=request_id,
            transform_id=transform_id,
            carried=carried,
            key_mark=key_mark,
        )

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what is needed to make this trigger again in a triggerer."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "panda_conn_id": self.panda_conn_id,
                "not_before": self.not_before,
                "returns": self.returns,
                **dataclasses.asdict(self.awaited),
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and fire once."""
        shared = await connection_that_fits(self.panda_conn_id, self.awaited.is_signed_by)
        wait = Wait(
            self.awaited,
            shared,
            log=self.log,
            on_task_id=lambda task_id: tell_task_id(self.task_instance, shared.panda, task_id, log=self.log),
        )
        event = await wait.until_over()
        self.log.info(
            "%s: %s; %d result(s), %d failure(s), the last word was %s",
            self.awaited.task_key,
            event.outcome.value,
            event.n_jobs - event.n_failures - event.n_missing,
            event.n_failures,
            event.status or "none yet",
        )
        await turn_to_fire()
        if await self._ended(event):
            yield TaskSuccessEvent()
            return
        await settled(self.not_before)
        yield TriggerEvent(event.to_json())

    async def _ended(self, event: FunctionEvent) -> bool:
        """Hand the task's value on, and return whether that leaves nothing to be done."""
        if self.returns is None or self.task_instance is None:  # as in dag.test(), which resumes every task
            return False
        values = plain_values(event)
        if values is None:
            return False
        try:
            return await leave_return_value(self.task_instance, values if self.returns == "list" else values[0])
        except Exception as error:
            self.log.warning("%s: its value could not be left from here (%s); a worker does", event.task_key, error)
            return False

    async def on_kill(self) -> None:
        """Kill the grid task after a user's mark or clear."""
        awaited = self.awaited
        at = f"PanDA task {awaited.task_id}" if awaited.request_id is None else f"iDDS transform {awaited.transform_id}"
        by_hand = f"kill({awaited.task_id})" if awaited.task_id is not None else f"kill the task {awaited.task_name}"
        await kill_unless_still_waited_for(
            self.task_instance,
            id_key=TASK_KEY_KEY,
            own_id=awaited.task_key,
            kill=self._kill,
            what=f"{awaited.task_key} ({at})",
            by_hand=f"kill it by hand: pbook, {by_hand}",
            log=self.log,
        )

    async def _kill(self) -> None:
        """Kill the task, or find that there is nothing to kill.

        :raises TaskNotFoundError: iDDS has not given it to PanDA yet.
        """
        shared = await shared_connection(self.panda_conn_id)
        task_id = self.awaited.task_id
        request_id, transform_id = self.awaited.request_id, self.awaited.transform_id
        if task_id is None and request_id is not None and transform_id is not None:
            request = await shared.idds.request(request_id)
            try:
                task_id = task_of(request, request_id, transform_id)
            except TaskNotFoundError as error:
                self.log.info("%s: nothing to kill: %s", self.awaited.task_key, error)
                return
            if task_id is None:
                raise TaskNotFoundError(f"iDDS has not given transform {transform_id} to PanDA yet")
        if task_id is not None:
            await shared.client.kill(task_id, policy=AT_ONCE)
