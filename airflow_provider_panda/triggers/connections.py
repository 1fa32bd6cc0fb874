"""What the triggers of one process share per PanDA connection, looked up once and not once a task.

The first SDK call of a triggerer's life blocks its supervisor for seconds, and calls are served one at a time
(facts/airflow.md section 2); a thousand triggers must not make a thousand of them.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final
from weakref import WeakKeyDictionary

from airflow_provider_panda import configuration
from airflow_provider_panda.broker.endpoint import BrokerEndpoint
from airflow_provider_panda.exceptions import PandaProviderError
from airflow_provider_panda.grid.endpoint import PandaEndpoint, with_credentials_of
from airflow_provider_panda.grid.foreign import ForeignTasks
from airflow_provider_panda.grid.idds.board import RequestBoard
from airflow_provider_panda.grid.idds.client import AsyncIddsClient
from airflow_provider_panda.grid.identity.tokens import claims
from airflow_provider_panda.grid.watch import AsyncPandaClient, StatusBoard
from airflow_provider_panda.hooks.panda import PandaConnection, PandaHook
from airflow_provider_panda.hooks.stomp import StompHook

log = logging.getLogger(__name__)

FRESH_FOR: Final = 300.0
"""Seconds after which a connection is looked up again, for it may have been edited."""

REREAD_AFTER: Final = 5.0
"""The same when its credentials are refused or have expired."""


@dataclass(eq=False, slots=True)
class WaitCounts:
    """What is counted of the waits with one PanDA connection; plain numbers, changed in the loop only.

    :ivar conn_id: id of the connection.
    :ivar waiting: triggers that wait.
    :ivar reconciliations: how often a wait read PanDA's record.
    """

    conn_id: str = ""
    waiting: int = 0
    reconciliations: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedConnection:
    """A PanDA connection as the triggers use it.

    :param panda: its fields.
    :param broker: the broker that results come from, or None where only PanDA's record is read.
    :param client: asynchronous PanDA client.
    :param idds: asynchronous iDDS client; asks only where something came through iDDS.
    :param counts: counts of the waits with it.
    """

    panda: PandaConnection
    broker: BrokerEndpoint | None
    client: AsyncPandaClient
    idds: AsyncIddsClient
    counts: WaitCounts = field(default_factory=WaitCounts, compare=False)


class _Shelf:
    """Connections and status boards of one event loop."""

    def __init__(self) -> None:
        self.connections: dict[str, tuple[float, SharedConnection]] = {}
        self.boards: dict[tuple[AsyncPandaClient, str], StatusBoard] = {}
        self.foreign: dict[AsyncPandaClient, ForeignTasks] = {}
        self.requests: dict[AsyncIddsClient, RequestBoard] = {}
        self.lock = asyncio.Lock()


_shelves: WeakKeyDictionary[asyncio.AbstractEventLoop, _Shelf] = WeakKeyDictionary()


def _shelf() -> _Shelf:
    return _shelves.setdefault(asyncio.get_running_loop(), _Shelf())


_LookUp = Callable[[str], Awaitable[PandaConnection]]


async def shared_connection(conn_id: str, *, look_up: _LookUp = PandaHook.aget) -> SharedConnection:
    """Return a PanDA connection with its broker, looked up at most once in :data:`FRESH_FOR` seconds.

    :raises ConfigurationError: a field is wrong.
    """
    shelf = _shelf()
    async with shelf.lock:
        known = shelf.connections.get(conn_id)
        if known is not None and time.monotonic() - known[0] < FRESH_FOR:
            return known[1]
        return await _looked_up(shelf, conn_id, look_up)


async def connection_that_fits(
    conn_id: str, fits: Callable[[PandaConnection], bool], *, look_up: _LookUp = PandaHook.aget
) -> SharedConnection:
    """Return a PanDA connection, looked up once more if the one that is known does not fit.

    So whatever was submitted with an edited connection is waited for with that one, after :data:`REREAD_AFTER` seconds
    at most. The last one found may not fit either.

    :raises ConfigurationError: a field is wrong.
    """
    shared = await shared_connection(conn_id, look_up=look_up)
    if fits(shared.panda):
        return shared
    shelf = _shelf()
    since = shelf.connections[conn_id][0]
    await asyncio.sleep(since + REREAD_AFTER - time.monotonic())  # it may have been edited after it was looked up
    async with shelf.lock:
        looked_up, shared = shelf.connections[conn_id]
        if looked_up > since:  # by somebody else, meanwhile
            return shared
        return await _looked_up(shelf, conn_id, look_up)


async def _looked_up(shelf: _Shelf, conn_id: str, look_up: _LookUp) -> SharedConnection:
    """Look a connection up, and keep the client of the one before if it is of the same owner on the same server."""
    known = shelf.connections.get(conn_id)
    panda = await look_up(conn_id)
    broker = await StompHook.aget(panda.broker_conn_id) if panda.broker_conn_id else None
    if known is not None and (known[1].panda, known[1].broker) == (panda, broker):
        shared = known[1]
    elif (
        known is not None
        and known[1].panda.idds_host == panda.idds_host
        and _only_renewed(known[1].panda.endpoint, panda.endpoint)
    ):
        shared = dataclasses.replace(known[1], panda=panda, broker=broker)
        shared.client.adopt(panda.endpoint)
        shared.idds.adopt(panda.endpoint)
    else:
        reread = partial(_read_again, conn_id, panda.endpoint.url, look_up)
        shared = SharedConnection(
            panda=panda,
            broker=broker,
            client=AsyncPandaClient(panda.endpoint, reread=reread),
            idds=AsyncIddsClient(panda.idds, reread=reread),
            counts=WaitCounts(conn_id),
        )
    shelf.connections[conn_id] = (time.monotonic(), shared)
    return shared


async def _read_again(conn_id: str, url: str, look_up: _LookUp) -> PandaEndpoint | None:
    """Look a connection up whose credentials are refused or expired: whoever waits goes on with the new ones.

    At most once in :data:`REREAD_AFTER` seconds; None if the connection leads to another server by now, where the tasks
    that are waited for are not.
    """
    shelf = _shelf()
    async with shelf.lock:
        known = shelf.connections.get(conn_id)
        if known is None or time.monotonic() - known[0] > REREAD_AFTER:
            try:
                shared = await _looked_up(shelf, conn_id, look_up)
            except PandaProviderError as error:
                log.warning("connection %s cannot be read again: %s", conn_id, error)
                return None
        else:
            shared = known[1]
    endpoint = shared.panda.endpoint
    return endpoint if endpoint.url == url else None


def _only_renewed(before: PandaEndpoint, now: PandaEndpoint) -> bool:
    """Whether two endpoints differ in nothing but the token, and both tokens are of the same owner."""
    if with_credentials_of(before, now) != now or before.vo != now.vo:
        return False
    owners = [claims(endpoint.token or "").get("sub") for endpoint in (before, now)]
    return owners[0] is not None and owners[0] == owners[1]


def status_board(shared: SharedConnection, processing_type: str) -> StatusBoard:
    """Return the board on which the status of all waiting tasks of a connection is kept by one request a round."""
    boards = _shelf().boards
    key = (shared.client, processing_type)
    if key not in boards:
        boards[key] = StatusBoard(shared.client, processing_type, interval=configuration.poll_interval())
    return boards[key]


def request_board(shared: SharedConnection) -> RequestBoard:
    """Return the board that lists the iDDS requests of a connection, once for all tasks of a DAG run."""
    requests = _shelf().requests
    if shared.idds not in requests:
        requests[shared.idds] = RequestBoard(shared.idds, interval=configuration.poll_interval())
    return requests[shared.idds]


def foreign_tasks(shared: SharedConnection) -> ForeignTasks:
    """Return what asks for tasks made elsewhere, once for all who wait for the same one."""
    foreign = _shelf().foreign
    if shared.client not in foreign:
        foreign[shared.client] = ForeignTasks(shared.client, interval=configuration.poll_interval())
    return foreign[shared.client]


def connections_in_use() -> list[SharedConnection]:
    """Return the connections of this loop that were looked up."""
    return [shared for _, shared in _shelf().connections.values()]


def boards_of(shared: SharedConnection) -> list[StatusBoard]:
    """Return the status boards of a connection."""
    return [board for (client, _), board in _shelf().boards.items() if client is shared.client]
