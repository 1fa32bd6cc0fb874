"""HTTP exchanges with one PanDA server as one identity, on one event loop.

The one place that sends anything to PanDA, for the synchronous client (by way of the loop thread) and for the
triggerer alike: total deadline, cap on answers, credentials of the endpoint, errors mapped once.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final

from airflow_provider_panda.exceptions import GridAnswerTooLargeError, GridAuthError, GridUnreachableError
from airflow_provider_panda.grid.addresses import bare, base_url, reason
from airflow_provider_panda.grid.endpoint import PandaEndpoint, with_credentials_of
from airflow_provider_panda.grid.identity.certificates import Identity, identity_of, tls_stamp
from airflow_provider_panda.grid.identity.credentials import Credentials
from airflow_provider_panda.grid.identity.renewal import Renewal

if TYPE_CHECKING:
    import httpx

__all__ = ["Reply", "Request", "Reread", "Session", "bare", "base_url", "reason"]

ANSWER_LIMIT: Final = 64 * 1024 * 1024
"""Largest answer that is read, in bytes after decompression."""

CONNECTIONS: Final = 16
"""Connections to one server; who comes when all are in use waits, within the deadline of the call."""

CONNECT_TIMEOUT: Final = 20.0
"""Seconds for a connection to be made: a host that is down is not waited for as long as one that is slow."""

UPLOAD_RATE: Final = 256 * 1024
"""Slowest upload that is waited for, in bytes per second on top of the deadline of a call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request.

    :param method: HTTP method.
    :param url: address with query.
    :param headers: headers apart from credentials.
    :param content: body, if any.
    :param file: ``(field, name, content)`` of a multipart upload, if any.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    content: bytes | None = None
    file: tuple[str, str, bytes] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One HTTP answer.

    :param status: HTTP status.
    :param body: body, decompressed.
    :param url: address without query.
    :param date: the server's clock, as its Date header says it; empty if it does not.
    :param complaint: iDDS's reason for refusing, from its header ``ExceptionMessage``; empty from others.
    :param retry_after: seconds after which the server wants to be asked again, or None if it does not say.
    """

    status: int
    body: bytes
    url: str
    date: str = ""
    complaint: str = ""
    retry_after: float | None = None


Reread = Callable[[], Awaitable[PandaEndpoint | None]]
"""Reads again where an endpoint came from, whose credentials are no good any more; None if it leads elsewhere now."""


class Session:
    """A keep-alive HTTP client of one endpoint, bound to the event loop that first uses it.

    :param endpoint: where and who.
    :param limit: largest answer that is read, in bytes.
    :param reread: reads the endpoint's origin again when its credentials are refused or have expired.
    """

    service: ClassVar[str] = "PanDA"
    """What the server is called in messages."""

    def __init__(self, endpoint: PandaEndpoint, *, limit: int = ANSWER_LIMIT, reread: Reread | None = None) -> None:
        self._take(endpoint)
        self._reread = reread
        self._limit = limit
        self._http: httpx.AsyncClient | None = None
        self._stamp: tuple[int, int] | None = None
        self._identity: Identity | None = None
        self._making = asyncio.Lock()
        # httpx, asked for more connections than it may open, goes through all who wait each time that one is free.
        self._turns = asyncio.Semaphore(CONNECTIONS)

    def deadline(self, request: Request) -> float:
        """Return the seconds that an exchange may take in all."""
        size = len(request.file[2]) if request.file else len(request.content or b"")
        return self.endpoint.timeout + size / UPLOAD_RATE

    async def send(self, request: Request) -> Reply:
        """Send a request and return the answer, whatever its HTTP status.

        A token that the server does not take (it expired on the way, or our clock is wrong) is read or renewed once
        more, and the call made again if that gave another one: a call that was not authenticated was not executed.

        :raises GridUnreachableError: no complete answer, or not within the deadline.
        :raises GridAuthError: the credentials cannot be used.
        :raises GridAnswerTooLargeError: the answer is larger than the limit.
        """
        import httpx

        url = bare(request.url)
        deadline = self.deadline(request)
        try:
            async with asyncio.timeout(deadline):
                return await self._exchange(request, url)
        except TimeoutError:
            raise GridUnreachableError(
                f"{self.service} at {url} gave no complete answer within {deadline:g} s. "
                "Try again, or raise the connection field timeout",
                url=url,
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise GridUnreachableError(f"{self.service} at {url} does not answer: {reason(error)}", url=url) from None

    async def _exchange(self, request: Request, url: str) -> Reply:
        before = self.endpoint
        try:
            shown = await self._credentials()
            reply = await self._exchange_as(shown, request, url)
            if not token_refused(reply.status, reply.body):
                return reply
            helped = await self.renewal.after_refusal(shown.values()) or await self._adopted(before)
        except GridAuthError:
            if not await self._adopted(before):
                raise
            helped = True
        return await self._exchange_as(await self._credentials(), request, url) if helped else reply

    async def _adopted(self, before: PandaEndpoint) -> bool:
        """Take the credentials that the endpoint's origin has now; return whether they are other ones than before."""
        fresh = None if self._reread is None else await self._reread()
        if fresh is not None:
            self.adopt(fresh)
        return self.endpoint != before  # perhaps another call has taken them already

    def adopt(self, other: PandaEndpoint) -> None:
        """Take the credentials of another endpoint for all further calls."""
        endpoint = with_credentials_of(self.endpoint, other)
        if endpoint != with_credentials_of(self.endpoint, self.endpoint):
            self._take(endpoint)
            self._http = None

    def _take(self, endpoint: PandaEndpoint) -> None:
        self.endpoint = endpoint
        self.credentials = Credentials(endpoint)
        self.renewal = Renewal(endpoint, self.credentials.store)

    async def _exchange_as(self, shown: Mapping[str, str], request: Request, url: str) -> Reply:
        headers = {**request.headers, **shown}
        async with self._turns:
            return await self._exchange_in_turn(headers, request, url)

    async def _exchange_in_turn(self, headers: Mapping[str, str], request: Request, url: str) -> Reply:
        import httpx

        http = await self._client(request.url)
        files: Any = None
        if request.file:
            field, name, content = request.file
            files = {field: (name, content, "application/octet-stream")}
        body = bytearray()
        async with http.stream(
            request.method, request.url, headers=headers, content=request.content, files=files
        ) as response:
            if announced_length(response.headers.get("content-length", "")) > self._limit:
                raise _too_large(url, self._limit)
            try:
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > self._limit:
                        raise _too_large(url, self._limit)
            except httpx.StreamError as error:
                raise GridUnreachableError(f"{self.service} at {url} broke off its answer: {error}", url=url) from None
            date = response.headers.get("date", "")
            return Reply(
                status=response.status_code,
                body=bytes(body),
                url=url,
                date=date,
                complaint=response.headers.get("exceptionmessage", ""),
                retry_after=seconds_to_wait(response.headers.get("retry-after", ""), date),
            )

    async def token(self) -> str | None:
        """Return the id token for the next call, renewed if need be, or None for an endpoint without.

        :raises GridError: there is none that can be used.
        """
        await self.renewal.ready()
        if self.credentials.reads_files:
            return await asyncio.to_thread(self.credentials.token)
        return self.credentials.token()

    async def _credentials(self) -> dict[str, str]:
        await self.renewal.ready()
        if self.credentials.reads_files:
            return await asyncio.to_thread(self.credentials.headers)
        return self.credentials.headers()

    async def _client(self, url: str) -> httpx.AsyncClient:
        import httpx

        secure = url.startswith("https:")
        async with self._making:
            stamp = await asyncio.to_thread(tls_stamp, self.endpoint) if secure else None
            if self._http is None or (secure and (self._identity is None or stamp != self._stamp)):
                # Reading CA certificates takes 40 ms, and nobody looks at them over http.
                self._identity = await asyncio.to_thread(identity_of, self.endpoint) if secure else None
                # trust_env off: no proxy, netrc or CA setting of the environment gets into a call. The client
                # before, if any, ends with its calls in flight: httpx closes idle sockets when it is collected.
                self._http = httpx.AsyncClient(
                    verify=self._identity.context if self._identity else _trusting_nobody(),
                    trust_env=False,
                    follow_redirects=False,
                    timeout=httpx.Timeout(self.endpoint.timeout, connect=min(self.endpoint.timeout, CONNECT_TIMEOUT)),
                    limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=4, keepalive_expiry=90),
                    headers={"User-Agent": "airflow-provider-panda"},
                )
                self._stamp = stamp
            if secure and self._identity is not None:
                self._identity.check(time.time())
            return self._http

    async def aclose(self) -> None:
        """Close the connections; the next call opens new ones."""
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()


def _too_large(url: str, limit: int) -> GridAnswerTooLargeError:
    return GridAnswerTooLargeError(f"The answer of {url} is larger than {limit} bytes. Ask for less at once", url=url)


def announced_length(header: str) -> int:
    """Return the bytes that a Content-Length announces; 0 for what is no number."""
    if not (header.isascii() and header.isdigit()):
        return 0
    return int(header[:18])


def seconds_to_wait(header: str, date: str) -> float | None:
    """Return the seconds that a Retry-After asks for, or None if it cannot be read (RFC 9110 section 10.2.3).

    :param header: seconds, or a date.
    :param date: the Date of the same answer: a date is meant by the server's clock, not by ours.
    """
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        seconds = (parsedate_to_datetime(text) - parsedate_to_datetime(date)).total_seconds()
    except (TypeError, ValueError, OverflowError):  # no date, or one with a zone and one without
        return None
    return max(0.0, seconds)


def _trusting_nobody() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def token_refused(status: int, body: bytes) -> bool:
    """Whether an answer says that the token itself is not good, and not that its owner lacks a right.

    PanDA: 403 ``Token authentication failed. Invalid token. Signature has expired`` (facts/panda.md section 2).
    """
    return status == 401 or (status == 403 and b"invalid token" in body[:4096].lower())
