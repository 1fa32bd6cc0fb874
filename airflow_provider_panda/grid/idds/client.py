"""The calls that this provider makes to iDDS, for coroutines and for threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Final, TypeVar

from airflow_provider_panda.grid.endpoint import PandaEndpoint, with_credentials_of
from airflow_provider_panda.grid.idds import answers as idds_answers
from airflow_provider_panda.grid.idds.answers import RequestStatus, TransformStatus
from airflow_provider_panda.grid.idds.calls import Command, Direct, Relayed, Way
from airflow_provider_panda.grid.idds.endpoint import IddsEndpoint
from airflow_provider_panda.grid.loop import LoopThread, loop_thread
from airflow_provider_panda.grid.session import Reread, Session

__all__ = ["AsyncIddsClient", "IddsClient", "RequestStatus", "TransformStatus"]

T = TypeVar("T")

_DECODED_ON_LOOP: Final = 32 * 1024
"""Answers up to this many bytes are decoded on the loop; larger ones in a thread."""


class IddsSession(Session):
    """Exchanges with iDDS's own REST interface, which wants the same proof in headers of its own."""

    service: ClassVar[str] = "iDDS"

    async def _credentials(self) -> dict[str, str]:
        shown = await super()._credentials()
        token = shown.get("Authorization", "").removeprefix("Bearer ")
        headers = {"X-IDDS-Auth-Type": "oidc" if token else "x509_proxy"}
        if self.endpoint.vo:
            headers["X-IDDS-Auth-VO"] = self.endpoint.vo
        if token:
            headers["X-IDDS-Auth-Token"] = token
        return headers


class AsyncIddsClient:
    """Calls to one iDDS as one identity. Never blocks the loop; every call has the endpoint's deadline.

    :param endpoint: which iDDS, and who asks.
    :param reread: looks the credentials up again where they came from, when they are refused or have expired.
    """

    def __init__(self, endpoint: IddsEndpoint, *, reread: Reread | None = None) -> None:
        self.endpoint = endpoint
        self._reread = reread
        self._way: Way = Direct(endpoint.host) if endpoint.host else Relayed(endpoint.panda.url)
        self._session: Session | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def ping(self) -> None:
        """Check that iDDS answers and accepts the credentials.

        :raises GridError: it does not.
        """
        await self._call(Command(direct=("ping", {}), relayed=("ping", {})), lambda data, url: None)

    async def add_request(self, properties: Mapping[str, Any]) -> int:
        """Add a request and return its id.

        :param properties: attributes of a request; ``request_metadata.workflow`` is the serialised workflow.
        """
        workflow = properties["request_metadata"]["workflow"]
        return await self._call(
            Command(direct=("add_request", properties), relayed=("submit", {"workflow": workflow})),
            lambda data, url: idds_answers.new_id(data, "request_id", url),
        )

    async def add_transform(self, request_id: int, properties: Mapping[str, Any]) -> int:
        """Add a transform to a request and return its id.

        :param properties: attributes of a transform; ``transform_metadata.work`` is the serialised work.
        """
        work = properties["transform_metadata"]["work"]
        return await self._call(
            Command(
                direct=("add_transform", {"request_id": request_id, **properties}),
                relayed=("submit_work", {"request_id": request_id, "work": work}),
            ),
            lambda data, url: idds_answers.new_id(data, "transform_id", url),
        )

    async def request(self, request_id: int) -> RequestStatus | None:
        """Return a request with all its transforms, in one call, or None if there is none of that id."""
        found = await self._call(
            Command(
                # With the processings: their jediTaskID is there before it is copied to the transform.
                direct=("get_requests", {"request_id": request_id, "with_processing": True}),
                relayed=("get_requests", {"request_id": request_id, "with_detail": True}),
            ),
            lambda data, url: idds_answers.requests(data, url, asked=request_id),
        )
        return next((status for status in found if status.request_id == request_id), None)

    async def request_ids(self, pattern: str) -> dict[str, int]:
        """Return the ids of requests by name.

        :param pattern: name; ``*`` stands for anything, and so does ``_`` for one character.
        """
        return await self._call(
            Command(
                direct=("get_request_id_by_name", {"name": pattern}),
                relayed=("get_request_id_by_name", {"name": pattern}),
            ),
            idds_answers.ids_by_name,
        )

    async def close_request(self, request_id: int) -> None:
        """Let a request end when its works have ended; done by iDDS a few seconds later."""
        arguments = {"request_id": request_id}
        await self._call(
            Command(direct=("close_request", arguments), relayed=("close", arguments)), idds_answers.commanded
        )

    async def abort_request(self, request_id: int) -> None:
        """Abort a request; does nothing to the PanDA tasks of functions (facts/idds.md section 4)."""
        arguments = {"request_id": request_id}
        await self._call(
            Command(direct=("abort_request", arguments), relayed=("abort", arguments)), idds_answers.commanded
        )

    async def messages(
        self, request_id: int, *, transform_id: int | None = None, internal_id: str | None = None
    ) -> list[Mapping[str, Any]]:
        """Return the bodies of the result messages that iDDS stored; none where it stores nothing."""
        arguments = {
            "request_id": request_id,
            "transform_id": "null" if transform_id is None else transform_id,
            "internal_id": internal_id or "null",
        }
        return await self._call(
            Command(direct=("get_messages", arguments), relayed=("get_messages", arguments)), idds_answers.messages
        )

    def adopt(self, panda: PandaEndpoint) -> None:
        """Take the credentials of another endpoint of the same PanDA server for all further calls."""
        self.endpoint = replace(self.endpoint, panda=with_credentials_of(self.endpoint.panda, panda))
        if self._session is not None:
            self._session.adopt(panda)

    async def aclose(self) -> None:
        """Close the connections; the next call opens new ones."""
        session, self._session = self._session, None
        if session is not None and self._loop is asyncio.get_running_loop():
            await session.aclose()

    async def _call(self, command: Command, read: Callable[[Any, str], T]) -> T:
        loop = asyncio.get_running_loop()
        if self._session is None or self._loop is not loop:
            self._session, self._loop = self._new_session(), loop
        # The first one imports idds-client.
        request = await asyncio.to_thread(self._way.request, command)
        reply = await self._session.send(request)

        def decode() -> T:
            return read(self._way.read(reply), reply.url)

        if len(reply.body) <= _DECODED_ON_LOOP:
            return decode()
        return await asyncio.to_thread(decode)

    def _new_session(self) -> Session:
        panda = self.endpoint.panda
        if self.endpoint.host is None:
            return Session(panda, reread=self._reread)
        return IddsSession(replace(panda, url=self.endpoint.host, cache_url=None), reread=self._reread)


class IddsClient:
    """The same calls for threads. Safe to use from many at once."""

    def __init__(self, endpoint: IddsEndpoint) -> None:
        self.endpoint = endpoint
        self._client: AsyncIddsClient | None = None
        self._thread: LoopThread | None = None

    def _wait_for(self, call: Callable[[AsyncIddsClient], Coroutine[Any, Any, T]]) -> T:
        thread = loop_thread()
        if self._client is None or self._thread is not thread:  # first use, or first after a fork
            self._client, self._thread = AsyncIddsClient(self.endpoint), thread
        client = self._client
        return thread.wait_for(lambda: call(client))

    def ping(self) -> None:
        """See :meth:`AsyncIddsClient.ping`."""
        self._wait_for(lambda client: client.ping())

    def add_request(self, properties: Mapping[str, Any]) -> int:
        """See :meth:`AsyncIddsClient.add_request`."""
        return self._wait_for(lambda client: client.add_request(properties))

    def add_transform(self, request_id: int, properties: Mapping[str, Any]) -> int:
        """See :meth:`AsyncIddsClient.add_transform`."""
        return self._wait_for(lambda client: client.add_transform(request_id, properties))

    def request(self, request_id: int) -> RequestStatus | None:
        """See :meth:`AsyncIddsClient.request`."""
        return self._wait_for(lambda client: client.request(request_id))

    def request_ids(self, pattern: str) -> dict[str, int]:
        """See :meth:`AsyncIddsClient.request_ids`."""
        return self._wait_for(lambda client: client.request_ids(pattern))

    def close_request(self, request_id: int) -> None:
        """See :meth:`AsyncIddsClient.close_request`."""
        self._wait_for(lambda client: client.close_request(request_id))

    def abort_request(self, request_id: int) -> None:
        """See :meth:`AsyncIddsClient.abort_request`."""
        self._wait_for(lambda client: client.abort_request(request_id))

    def messages(
        self, request_id: int, *, transform_id: int | None = None, internal_id: str | None = None
    ) -> list[Mapping[str, Any]]:
        """See :meth:`AsyncIddsClient.messages`."""
        return self._wait_for(
            lambda client: client.messages(request_id, transform_id=transform_id, internal_id=internal_id)
        )
