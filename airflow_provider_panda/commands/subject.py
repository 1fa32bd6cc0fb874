"""What the steps of a command are about: one connection, read once, and calls with it."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cached_property
from urllib.parse import urlencode

from airflow_provider_panda import configuration
from airflow_provider_panda.broker.endpoint import BrokerEndpoint
from airflow_provider_panda.broker.selftest import AddressCheck, try_out
from airflow_provider_panda.exceptions import GridError
from airflow_provider_panda.grid import answers
from airflow_provider_panda.grid.answers import Answer
from airflow_provider_panda.grid.endpoint import AuthKind, PandaEndpoint
from airflow_provider_panda.grid.loop import loop_thread
from airflow_provider_panda.grid.panda import PandaGrid
from airflow_provider_panda.grid.retry import BRIEF
from airflow_provider_panda.grid.session import Reply, Request, Session, base_url
from airflow_provider_panda.hooks.panda import PandaConnection, PandaHook
from airflow_provider_panda.hooks.stomp import StompHook

_JSON = {"Content-Type": "application/json", "Accept": "application/json"}


class Subject:
    """One connection under test.

    :param conn_id: its id.
    """

    def __init__(self, conn_id: str) -> None:
        self.conn_id = conn_id

    def forget(self) -> None:
        """Read the connection again when it is asked for next: it was changed."""
        self.__dict__.pop("connection", None)

    @cached_property
    def connection(self) -> PandaConnection:
        """The connection, checked."""
        return PandaHook(self.conn_id).get_conn()

    @property
    def endpoint(self) -> PandaEndpoint:
        """Where and who."""
        return self.connection.endpoint

    @property
    def stranger(self) -> PandaEndpoint:
        """The same server, and nobody in particular."""
        return replace(
            self.endpoint, auth=AuthKind.NONE, token=None, token_file=None, refresh_token=None, proxy_file=None
        )

    @property
    def instance(self) -> str:
        """Name of this Airflow instance."""
        return configuration.instance(self.connection.instance_secret, conn_id=self.conn_id)

    @property
    def grid(self) -> PandaGrid:
        """The tasks of the connection's identity."""
        return PandaGrid(self.endpoint, defaults=self.connection.defaults, policy=BRIEF)

    def ask_alive(self) -> Reply:
        """Return PanDA's answer to somebody without credentials (system/is_alive)."""
        return send(self.stranger, f"{base_url(self.endpoint.url)}/api/v1/system/is_alive")

    @cached_property
    def refusal(self) -> GridError | None:
        """Why PanDA refuses a read that any authenticated user may do, or None."""
        return self.refused_as(self.endpoint.vo)

    def refused_as(self, vo: str) -> GridError | None:
        """Return why PanDA refuses such a read to us as member of a VO, or None."""
        filters = json.dumps({"taskName": "airflow_panda_check"})
        try:
            answers.granted(
                call(replace(self.endpoint, vo=vo), "task/get_tasks_detailed_info_since", n_tasks="1", filters=filters)
            )
        except GridError as error:
            return error
        return None

    @cached_property
    def broker(self) -> BrokerEndpoint | None:
        """The broker of the connection, if it names one."""
        name = self.connection.broker_conn_id
        return StompHook(name).get_conn() if name else None

    @cached_property
    def broker_checks(self) -> tuple[AddressCheck, ...]:
        """What came of a trial of each of the broker's addresses."""
        return () if self.broker is None else try_out(self.broker)


def call(endpoint: PandaEndpoint, method: str, **query: str) -> Answer:
    """Return the answer to a read of PanDA's API v1.

    :param method: module and method, such as ``system/is_alive``.
    :raises GridError: no usable answer.
    """
    url = f"{base_url(endpoint.url)}/api/v1/{method}"
    reply = send(endpoint, f"{url}?{urlencode(query)}" if query else url)
    return answers.read_answer(reply.status, reply.body, reply.url)


def send(endpoint: PandaEndpoint, url: str) -> Reply:
    """Return what a server answers to GET, over a connection of its own.

    :raises GridError: no answer.
    """

    async def exchange() -> Reply:
        session = Session(endpoint)
        try:
            return await session.send(Request(method="GET", url=url, headers=_JSON))
        finally:
            await session.aclose()

    return loop_thread().wait_for(exchange)


def token_of(endpoint: PandaEndpoint) -> str | None:
    """Return the id token for the next call, renewed if need be.

    :raises GridError: there is none that can be used.
    """

    async def find() -> str | None:
        session = Session(endpoint)
        try:
            return await session.token()
        finally:
            await session.aclose()

    return loop_thread().wait_for(find)
