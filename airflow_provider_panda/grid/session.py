"""HTTP exchanges with one PanDA server as one identity, on one event loop.

The one place that sends anything to PanDA, for the synchronous client (by way of the loop thread) and for the
triggerer alike: total deadline, cap on answers, credentials of the endpoint, errors mapped once.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

from airflow_provider_panda.exceptions import GridAnswerTooLargeError, GridUnreachableError
from airflow_provider_panda.grid.credentials import Credentials, tls_context, tls_stamp
from airflow_provider_panda.grid.endpoint import PandaEndpoint

if TYPE_CHECKING:
    import httpx

ANSWER_LIMIT: Final = 64 * 1024 * 1024
"""Largest answer that is read, in bytes after decompression."""

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
    """

    status: int
    body: bytes
    url: str


def bare(url: str) -> str:
    """Return a URL without query, fragment and credentials, for messages."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def base_url(url: str) -> str:
    """Return scheme, host and port of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


class Session:
    """A keep-alive HTTP client of one endpoint, bound to the event loop that first uses it."""

    def __init__(self, endpoint: PandaEndpoint, *, limit: int = ANSWER_LIMIT) -> None:
        self.endpoint = endpoint
        self.credentials = Credentials(endpoint)
        self._limit = limit
        self._http: httpx.AsyncClient | None = None
        self._stamp: tuple[int, int] | None = None
        self._making = asyncio.Lock()

    def deadline(self, request: Request) -> float:
        """Return the seconds that an exchange may take in all."""
        size = len(request.file[2]) if request.file else len(request.content or b"")
        return self.endpoint.timeout + size / UPLOAD_RATE

    async def send(self, request: Request) -> Reply:
        """Send a request and return the answer, whatever its HTTP status.

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
                f"PanDA at {url} gave no complete answer within {deadline:g} s. "
                "Try again, or raise the connection field timeout",
                url=url,
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise GridUnreachableError(f"PanDA at {url} does not answer: {reason(error)}", url=url) from None

    async def _exchange(self, request: Request, url: str) -> Reply:
        import httpx

        headers = {**request.headers, **await self._credentials()}
        http = await self._client(request.url)
        files: Any = None
        if request.file:
            field, name, content = request.file
            files = {field: (name, content, "application/octet-stream")}
        body = bytearray()
        async with http.stream(
            request.method, request.url, headers=headers, content=request.content, files=files
        ) as response:
            announced = response.headers.get("content-length", "")
            if announced.isdigit() and int(announced) > self._limit:
                raise _too_large(url, self._limit)
            try:
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > self._limit:
                        raise _too_large(url, self._limit)
            except httpx.StreamError as error:
                raise GridUnreachableError(f"PanDA at {url} broke off its answer: {error}", url=url) from None
            return Reply(status=response.status_code, body=bytes(body), url=url)

    async def _credentials(self) -> dict[str, str]:
        if self.credentials.reads_files:
            return await asyncio.to_thread(self.credentials.headers)
        return self.credentials.headers()

    async def _client(self, url: str) -> httpx.AsyncClient:
        import httpx

        secure = url.startswith("https:")
        async with self._making:
            stamp = await asyncio.to_thread(tls_stamp, self.endpoint) if secure else None
            if self._http is None or (secure and stamp != self._stamp):
                tls: ssl.SSLContext | bool = await asyncio.to_thread(tls_context, self.endpoint)
                # trust_env off: no proxy, netrc or CA setting of the environment gets into a call. The client
                # before, if any, ends with its calls in flight: httpx closes idle sockets when it is collected.
                self._http = httpx.AsyncClient(
                    verify=tls,
                    trust_env=False,
                    follow_redirects=False,
                    timeout=self.endpoint.timeout,
                    limits=httpx.Limits(max_connections=16, max_keepalive_connections=4, keepalive_expiry=90),
                    headers={"User-Agent": "airflow-provider-panda"},
                )
                self._stamp = stamp
            return self._http

    async def aclose(self) -> None:
        """Close the connections; the next call opens new ones."""
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()


def _too_large(url: str, limit: int) -> GridAnswerTooLargeError:
    return GridAnswerTooLargeError(f"The answer of {url} is larger than {limit} bytes. Ask for less at once", url=url)


def reason(error: BaseException) -> str:
    """Return why an exchange failed, in words that say what to do."""
    chain = list(_causes(error))
    for cause in chain:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"its TLS certificate is not trusted ({cause.verify_message}). "
                "Give its CA in the connection field ca_path"
            )
    for cause in chain:
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed ({cause.reason or cause}). Check scheme and port of the server URL, and the proxy file"
        if isinstance(cause, socket.gaierror):
            return "its name cannot be resolved. Check the host of the connection"
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused. Check host and port of the connection, and that the server runs"
    text = str(error) or type(error).__name__
    return f"{text}. Check the network and the server URL, or try again"


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    todo: list[BaseException] = [error]
    while todo:
        cause = todo.pop()
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        if isinstance(cause, BaseExceptionGroup):
            todo.extend(cause.exceptions)
        todo.extend(linked for linked in (cause.__cause__, cause.__context__) if linked is not None)
