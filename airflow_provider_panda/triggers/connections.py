"""What the triggers of one process share per PanDA connection, looked up once and not once a task.

The first SDK call of a triggerer's life blocks its supervisor for seconds, and calls are served one at a time
(facts/airflow.md section 2); a thousand triggers must not make a thousand of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

from airflow_provider_panda import configuration
from airflow_provider_panda.broker.endpoint import BrokerEndpoint
from airflow_provider_panda.grid.watch import AsyncPandaClient, StatusBoard
from airflow_provider_panda.hooks.panda import PandaConnection, PandaHook
from airflow_provider_panda.hooks.stomp import StompHook

FRESH_FOR: Final = 300.0
"""Seconds after which a connection is looked up again, for it may have been edited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedConnection:
    """A PanDA connection as the triggers use it.

    :param panda: its fields.
    :param broker: the broker that results come from, or None where only PanDA's record is read.
    :param client: asynchronous PanDA client.
    """

    panda: PandaConnection
    broker: BrokerEndpoint | None
    client: AsyncPandaClient


class _Shelf:
    """Connections and status boards of one event loop."""

    def __init__(self) -> None:
        self.connections: dict[str, tuple[float, SharedConnection]] = {}
        self.boards: dict[tuple[AsyncPandaClient, str], StatusBoard] = {}
        self.lock = asyncio.Lock()


_shelves: WeakKeyDictionary[asyncio.AbstractEventLoop, _Shelf] = WeakKeyDictionary()


def _shelf() -> _Shelf:
    return _shelves.setdefault(asyncio.get_running_loop(), _Shelf())


async def shared_connection(
    conn_id: str, *, look_up: Callable[[str], Awaitable[PandaConnection]] = PandaHook.aget
) -> SharedConnection:
    """Return a PanDA connection with its broker, looked up at most once in :data:`FRESH_FOR` seconds.

    :raises ConfigurationError: a field is wrong.
    """
    shelf = _shelf()
    async with shelf.lock:
        known = shelf.connections.get(conn_id)
        if known is not None and time.monotonic() - known[0] < FRESH_FOR:
            return known[1]
        panda = await look_up(conn_id)
        broker = await StompHook.aget(panda.broker_conn_id) if panda.broker_conn_id else None
        if known is not None and (known[1].panda, known[1].broker) == (panda, broker):
            shared = known[1]
        else:
            shared = SharedConnection(panda=panda, broker=broker, client=AsyncPandaClient(panda.endpoint))
        shelf.connections[conn_id] = (time.monotonic(), shared)
        return shared


def status_board(shared: SharedConnection, processing_type: str) -> StatusBoard:
    """Return the board on which the status of all waiting tasks of a connection is kept by one request a round."""
    boards = _shelf().boards
    key = (shared.client, processing_type)
    if key not in boards:
        boards[key] = StatusBoard(shared.client, processing_type, interval=configuration.poll_interval())
    return boards[key]
