"""The end of an iDDS request that nobody waits for any more: aborted, and its PanDA tasks killed.

iDDS's own abort does not reach every PanDA task (facts/idds.md section 4), so each is killed at PanDA as well.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol

from airflow_provider_panda.exceptions import GridError
from airflow_provider_panda.grid.answers import KillOutcome
from airflow_provider_panda.grid.idds.answers import RequestStatus

log = logging.getLogger(__name__)

PAUSES: Final = (2.0, 3.0, 5.0, 10.0, 15.0)
"""Seconds between looks at an aborted request: iDDS acts on an abort some seconds later, and may submit until then."""

AGAIN_AFTER: Final = 5.0
"""Seconds after which an abort is repeated that shows no effect: iDDS drops a command that comes while its clerk holds
the request (idds 2.6.21, clerk.get_operation_requests)."""

_SUCCEEDED: Final = frozenset({"Finished", "SubFinished"})


class RequestEnder(Protocol):
    """An :class:`~airflow_provider_panda.grid.idds.client.AsyncIddsClient`."""

    async def abort_request(self, request_id: int) -> None:
        """Abort a request."""

    async def request(self, request_id: int) -> RequestStatus | None:
        """Return a request with its transforms."""


class TaskKiller(Protocol):
    """An :class:`~airflow_provider_panda.grid.watch.AsyncPandaClient`."""

    async def kill(self, task_id: int) -> KillOutcome:
        """Kill a task."""


async def end_request(
    idds: RequestEnder,
    panda: TaskKiller,
    request_id: int,
    *,
    pauses: Iterable[float] = PAUSES,
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> list[int]:
    """Abort a request and kill its PanDA tasks; return the jediTaskIDs that were killed.

    :param idds: where the request is.
    :param panda: where its tasks are.
    :param request_id: its id.
    :param pauses: seconds between the looks for tasks that iDDS submitted meanwhile.
    :param pause: waits for the seconds given.
    :raises GridError: iDDS cannot be asked which tasks there are.
    """
    await _abort(idds, request_id)
    since = 0.0
    settled: set[int] = set()
    killed: list[int] = []
    for seconds in (*pauses, None):
        status = await idds.request(request_id)
        if status is None:
            break
        for transform in status.transforms:
            task_id = transform.task_id
            if task_id is None or task_id in settled or transform.status in _SUCCEEDED:
                continue
            settled.add(task_id)
            try:
                if await panda.kill(task_id) is KillOutcome.REGISTERED:
                    killed.append(task_id)
            except GridError as error:
                log.warning(
                    "PanDA task %d of iDDS request %d could not be killed: %s. Kill it by hand: pbook, kill(%d)",
                    task_id, request_id, error, task_id,
                )  # fmt: skip
        if status.ended or seconds is None:
            break
        if since >= AGAIN_AFTER and status.takes_works:
            await _abort(idds, request_id)
        await pause(seconds)
        since += seconds
    log.info("iDDS request %d: aborted, %d PanDA task(s) killed", request_id, len(killed))
    return killed


async def _abort(idds: RequestEnder, request_id: int) -> None:
    try:
        await idds.abort_request(request_id)
    except GridError as error:
        log.warning("iDDS request %d could not be aborted; killing its PanDA tasks: %s", request_id, error)
