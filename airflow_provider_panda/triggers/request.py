"""Wait until iDDS requests are in one of a set of states."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_panda.exceptions import GridError
from airflow_provider_panda.grid.answers import KillOutcome
from airflow_provider_panda.grid.idds.answers import RequestStatus, TransformStatus
from airflow_provider_panda.grid.idds.end import end_request
from airflow_provider_panda.grid.watch import AsyncPandaClient
from airflow_provider_panda.triggers.connections import SharedConnection, request_board, shared_connection
from airflow_provider_panda.triggers.event import Outcome
from airflow_provider_panda.triggers.firing import settled, turn_to_fire
from airflow_provider_panda.triggers.health import waiting_with
from airflow_provider_panda.triggers.kill import AT_ONCE, kill_unless_still_waited_for

WORKFLOW_REQUEST_KEY: Final = "idds_workflow_request_id"
"""XCom and task state key of the request that a task instance submitted for itself."""

TRANSFORMS_TOLD: Final = 300
"""Transforms of a request that an event carries; more are asked for again by whoever resumes."""

UNKNOWN_PATIENCE: Final = 60.0
"""Seconds after which a request does not exist that no listing showed: iDDS shows a request at once."""

MISSED_LISTINGS: Final = 3
"""Listings that must have missed it as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestsEvent:
    """What became of the requests that were waited for.

    :param outcome: COMPLETE: each is in an accepted state; ENDED: one ended otherwise; FAILED: iDDS knows no such
        request; DEADLINE: neither came in time.
    :param requests: what iDDS last said of each request that it showed.
    :param unknown: requests that it never showed.
    :param shortened: whether transforms were left out of ``requests``.
    :param task_key: key of the task instance that submitted the request, or None.
    """

    outcome: Outcome
    requests: tuple[RequestStatus, ...]
    unknown: tuple[int, ...] = ()
    shortened: bool = False
    task_key: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the event as JSON for Airflow."""
        shortened = self.shortened or sum(len(request.transforms) for request in self.requests) > TRANSFORMS_TOLD
        told = [dataclasses.replace(each, transforms=()) if shortened else each for each in self.requests]
        return {
            "outcome": self.outcome.value,
            "requests": [dataclasses.asdict(request) for request in told],
            "unknown": list(self.unknown),
            "shortened": shortened,
            "task_key": self.task_key,
        }

    @classmethod
    def from_json(cls, event: dict[str, Any]) -> RequestsEvent:
        """Read back what :meth:`to_json` wrote; fields that a newer provider added are ignored."""
        return cls(
            outcome=Outcome(event["outcome"]),
            requests=tuple(_request(request) for request in event["requests"]),
            unknown=tuple(event.get("unknown", ())),
            shortened=bool(event.get("shortened")),
            task_key=event.get("task_key"),
        )

    def failed(self, accepted: Collection[str]) -> list[RequestStatus]:
        """Return the requests that ended in a state that is not accepted."""
        return [request for request in self.requests if request.ended and request.status not in accepted]


def _request(fields: Mapping[str, Any]) -> RequestStatus:
    transforms = tuple(TransformStatus(**_known(TransformStatus, entry)) for entry in fields.get("transforms", ()))
    return RequestStatus(**{**_known(RequestStatus, fields), "transforms": transforms})


def _known(kind: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in fields.items() if name in names}


def judge(requests: Mapping[int, RequestStatus | None], accepted: Collection[str]) -> Outcome | None:
    """Return what the states of the requests amount to, or None while they have to be waited for.

    :param requests: last status of each request by its id, None while iDDS did not show it.
    :param accepted: states that end the wait well.
    """
    shown = [request for request in requests.values() if request is not None]
    if any(request.ended and request.status not in accepted for request in shown):
        return Outcome.ENDED
    if len(shown) == len(requests) and all(request.status in accepted for request in shown):
        return Outcome.COMPLETE
    return None


class IddsRequestTrigger(BaseTrigger):
    """Wait for iDDS requests.

    :param panda_conn_id: connection of type ``panda``.
    :param request_ids: ids of the requests.
    :param states: states that end the wait well; any other one in which a request ends, ends it as well.
    :param task_key: key of the task instance that submitted the one request, which is then ended when the wait is;
        None: requests made elsewhere, which are left alone.
    :param deadline: Unix time in seconds after which the wait ends, or None.
    :param not_before: Unix time in seconds before which the trigger does not fire, or None.
    """

    def __init__(
        self,
        *,
        panda_conn_id: str,
        request_ids: Collection[int],
        states: Collection[str],
        task_key: str | None = None,
        deadline: float | None = None,
        not_before: float | None = None,
        **_newer: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.panda_conn_id = panda_conn_id
        self.request_ids = tuple(request_ids)
        self.states = frozenset(states)
        self.task_key = task_key
        self.deadline = deadline
        self.not_before = not_before

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what is needed to make this trigger again in a triggerer."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "panda_conn_id": self.panda_conn_id,
                "request_ids": list(self.request_ids),
                "states": sorted(self.states),
                "task_key": self.task_key,
                "deadline": self.deadline,
                "not_before": self.not_before,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and fire once."""
        event = await _Wait(self, await shared_connection(self.panda_conn_id)).until_over()
        await settled(self.not_before)
        await turn_to_fire()
        yield TriggerEvent(event.to_json())

    async def on_kill(self) -> None:
        """End the request and its PanDA tasks after a user's mark or clear, if this task instance submitted it."""
        if self.task_key is None:
            return
        (request_id,) = self.request_ids

        async def end() -> None:
            shared = await shared_connection(self.panda_conn_id)
            killer = _Killer(shared.client)
            await end_request(shared.idds, killer, request_id)
            if killer.failed is not None:
                raise killer.failed  # what was killed already takes another kill for what it is

        await kill_unless_still_waited_for(
            self.task_instance,
            id_key=WORKFLOW_REQUEST_KEY,
            own_id=request_id,
            kill=end,
            what=f"{self.task_key}: iDDS request {request_id}",
            by_hand=f"abort request {request_id} at iDDS and kill its PanDA tasks by hand",
            log=self.log,
        )


class _Killer:
    """Kills the tasks of a request, and keeps why one could not be killed."""

    def __init__(self, client: AsyncPandaClient) -> None:
        self._client = client
        self.failed: GridError | None = None

    async def kill(self, task_id: int) -> KillOutcome:
        try:
            return await self._client.kill(task_id, policy=AT_ONCE)
        except GridError as error:
            self.failed = error
            raise


class _Wait:
    """One wait: what iDDS said of each request."""

    def __init__(self, trigger: IddsRequestTrigger, shared: SharedConnection) -> None:
        self.trigger, self.shared, self.log = trigger, shared, trigger.log
        self.requests: dict[int, RequestStatus | None] = dict.fromkeys(trigger.request_ids)
        self.missed = dict.fromkeys(trigger.request_ids, 0)
        self.changed = asyncio.Event()
        self.began = time.monotonic()

    async def until_over(self) -> RequestsEvent:
        """Wait until there is something to tell, at most until the deadline."""
        limit = self.trigger.deadline
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(waiting_with(self.shared))
            board = request_board(self.shared)
            for request_id in self.requests:
                # Of a transform that does not exist: what the board tells of the request is all that is wanted.
                stack.enter_context(board.waiting(request_id, 0, partial(self._take, request_id)))
            try:
                async with asyncio.timeout(None if limit is None else max(0.0, limit - time.time())):
                    while (outcome := judge(self.requests, self.trigger.states)) is None:
                        if any(map(self._does_not_exist, self.requests)):
                            outcome = Outcome.FAILED
                            break
                        self.changed.clear()
                        await self.changed.wait()
            except TimeoutError:
                if limit is None or time.time() < limit:
                    raise
                outcome = Outcome.DEADLINE
        return RequestsEvent(
            outcome=outcome,
            requests=tuple(request for request in self.requests.values() if request is not None),
            unknown=tuple(request_id for request_id, request in self.requests.items() if request is None),
            task_key=self.trigger.task_key,
        )

    def _take(self, request_id: int, _: TransformStatus | None, status: RequestStatus | None) -> None:
        previous = self.requests[request_id]
        if previous is not None and previous.status in self.trigger.states:
            return  # it was where it should be; where it went since does not matter
        if status is None:
            self.missed[request_id] += 1
        else:
            if previous is None or previous.status != status.status:
                done = sum(transform.ended for transform in status.transforms)
                self.log.info(
                    "%s: iDDS request %d is %s, %d of %d transform(s) ended",
                    self.trigger.task_key or status.name, request_id, status.status, done, len(status.transforms),
                )  # fmt: skip
            self.requests[request_id] = status
        self.changed.set()

    def _does_not_exist(self, request_id: int) -> bool:
        waited = time.monotonic() - self.began
        return (
            self.requests[request_id] is None
            and self.missed[request_id] >= MISSED_LISTINGS
            and waited > UNKNOWN_PATIENCE
        )
