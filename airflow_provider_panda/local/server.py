"""The PanDA server's HTTP: addresses, encodings and the envelope (facts/panda.md sections 1 and 2)."""

from __future__ import annotations

import asyncio
import gzip
import inspect
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from typing import Any, Final

from starlette.applications import Starlette
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from airflow_provider_panda.local.api import ENDPOINTS
from airflow_provider_panda.local.api.registry import Answer, Call, Grid, bind, refusal
from airflow_provider_panda.local.auth import ForbiddenError, Identity, Keys, authenticate
from airflow_provider_panda.local.issuer import Issuer
from airflow_provider_panda.local.issuer_http import issuer_routes
from airflow_provider_panda.local.pages import Pages

log = logging.getLogger(__name__)

BODY_LIMIT: Final = 64 * 1024 * 1024
UPLOAD_LIMIT: Final = 800 * 1024 * 1024
OLD_METHODS: Final = {
    "relay_idds_command": ("command_name", "args", "kwargs", "manager", "json_outputs"),
    "execute_idds_workflow_command": ("command_name", "kwargs", "json_outputs"),
    "putEventPickingRequest": (),
    "put_checkpoint": (),
    "delete_checkpoint": (),
    "put_file_recovery_request": (),
    "put_workflow_request": (),
}
"""The only methods that are left of the old API in panda-server 1.0, with their arguments where they work here."""

NOT_FOUND: Final = (
    '<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 4.01//EN" "http://www.w3.org/TR/html4/strict.dtd">\n'
    "<html><head>\n<title>404 Not Found</title>\n</head><body>\n<h1>Not Found</h1>\n"
    "<p>The requested URL was not found on this server.</p>\n</body></html>\n"
)


class BodyError(Exception):
    """A request body cannot be read; the text goes back with HTTP 500."""


def plain(body: str | bytes, status: int = 200) -> Response:
    """Return an answer as the real server sends all of them: chunked text/plain, whatever is in it."""
    encoded = body.encode() if isinstance(body, str) else body

    async def chunks() -> AsyncIterator[bytes]:
        yield encoded

    return StreamingResponse(chunks(), status, headers={"content-type": "text/plain"})


def encode_special(value: Any) -> Any:
    """Return what JSON can carry of a value that it cannot: datetimes as ``{"__datetime__": ...}``."""
    if isinstance(value, datetime):
        return {"__datetime__": value.isoformat()}
    raise TypeError(f"{type(value).__name__} cannot be encoded")


def wants_json(headers: Mapping[str, str]) -> bool:
    """Whether the answer is JSON; without these headers, exactly so, it is the repr of a Python dict."""
    return headers.get("content-type") == "application/json" or headers.get("accept") == "application/json"


def encode_answer(answer: Answer, *, as_json: bool) -> bytes:
    """Return the envelope of an answer as bytes; its data may be a function that is called here."""
    data = answer.data() if callable(answer.data) else answer.data
    envelope = {"success": answer.success, "message": answer.message, "data": data}
    text = json.dumps(envelope, default=encode_special) if as_json else repr(envelope)
    return text.encode()


def decode_body(body: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments in the body of a new-API request.

    :raises BodyError: it is no JSON object.
    """
    kind = headers.get("content-type", "").split(";")[0].strip()
    if headers.get("content-encoding") == "gzip":
        try:
            body = _gunzip(body)
        except (OSError, EOFError) as error:
            raise BodyError(str(error)) from None
    if kind != "application/json":
        from urllib.parse import parse_qs

        return {k: v[-1] for k, v in parse_qs(body.decode(errors="replace"), keep_blank_values=True).items()}
    if not body:
        return {}
    try:
        arguments = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BodyError(str(error)) from None
    if not isinstance(arguments, dict):
        raise BodyError(f"argument after ** must be a mapping, not {type(arguments).__name__}")
    return arguments


def _gunzip(body: bytes) -> bytes:
    import io

    with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
        text = file.read(BODY_LIMIT + 1)
    if len(text) > BODY_LIMIT:
        raise OSError("the body is too large")
    return text


def decode_old_body(body: bytes, headers: Mapping[str, str]) -> dict[str, str]:
    """Return the arguments of an old-API request: JSON there is always gzip-compressed.

    :raises BodyError: it is not.
    """
    kind = headers.get("content-type", "").split(";")[0].strip()
    if kind == "application/json":
        try:
            arguments = json.loads(_gunzip(body))
        except (OSError, EOFError, ValueError) as error:
            raise BodyError(str(error)) from None
        return {k: str(v) if isinstance(v, bool) else v for k, v in arguments.items()}
    if kind == "application/x-www-form-urlencoded":
        from urllib.parse import parse_qs

        return {k: v[-1] for k, v in parse_qs(body.decode(errors="replace"), keep_blank_values=True).items()}
    return {}


class Server:
    """The ASGI application of the embedded PanDA server."""

    def __init__(self, grid: Grid, keys: Keys, pages: Pages, issuer: Issuer) -> None:
        self._grid, self._keys, self._pages = grid, keys, pages
        self.application = Starlette(
            routes=[
                Route("/api/{version}/{module}/{method}", self._new_api, methods=["GET", "POST", "PUT", "DELETE"]),
                Route("/server/panda/{method}", self._old_api, methods=["GET", "POST"]),
                Route("/cache/{name:path}", self._cached, methods=["GET"]),
                *issuer_routes(issuer),
                Route("/", self._page(lambda request: pages.overview())),
                Route("/task/{task_id:int}/", self._page(lambda request: pages.task(request.path_params["task_id"]))),
                Route("/job/{panda_id:int}/", self._page(lambda request: pages.job(request.path_params["panda_id"]))),
            ],
            exception_handlers={404: self._nothing_here},
        )

    async def _nothing_here(self, request: Request, error: Exception) -> Response:
        return Response(NOT_FOUND, 404, headers={"content-type": "text/html; charset=iso-8859-1"})

    def _page(self, make: Callable[[Request], str | None]) -> Callable[[Request], Any]:
        async def respond(request: Request) -> Response:
            page = make(request)
            return HTMLResponse(page) if page is not None else await self._nothing_here(request, KeyError())

        return respond

    def _identity(self, request: Request) -> Identity | None:
        return authenticate(
            request.headers.get("authorization"),
            request.headers.get("origin"),
            keys=self._keys,
            vos=self._grid.options.vos,
        )

    async def _new_api(self, request: Request) -> Response:
        method = request.path_params["method"]
        endpoint = ENDPOINTS.get((request.path_params["module"], method))
        if request.path_params["version"] != "v1" or endpoint is None:
            return plain(f"ERROR : method {method} is forbidden", 403)
        try:
            identity = self._identity(request)
        except ForbiddenError as error:
            return plain(str(error), 403)
        as_json = wants_json(request.headers)
        refused = refusal(endpoint, method=request.method, identity=identity)
        if refused is not None:
            return plain(encode_answer(Answer(False, refused), as_json=as_json))
        try:
            arguments, from_query = await self._arguments(request)
        except BodyError as error:
            return plain(str(error), 500)
        bound, problem = bind(endpoint, arguments, from_query=from_query)
        if problem is not None:
            return plain(encode_answer(Answer(False, problem), as_json=as_json))
        call = Call(grid=self._grid, identity=identity, headers=request.headers)
        try:
            result = endpoint.function(call, **bound)
            answer: Answer = await result if inspect.isawaitable(result) else result
            if callable(answer.data):
                return plain(await asyncio.to_thread(encode_answer, answer, as_json=as_json))
            return plain(encode_answer(answer, as_json=as_json))
        except Exception as error:
            self._grid.store.rollback()
            self._grid.engine.ledger.forget_changes()
            log.exception("%s/%s failed", endpoint.module, endpoint.name)
            return plain(f"{type(error).__name__} in {endpoint.module}/{endpoint.name}; see the grid's log", 500)

    async def _arguments(self, request: Request) -> tuple[dict[str, Any], bool]:
        if request.method != "POST":
            query: dict[str, Any] = {}
            for name in request.query_params:
                values = request.query_params.getlist(name)
                query[name] = values if len(values) > 1 else values[0]
            return query, True
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            try:
                form = await request.form(max_files=1, max_fields=10)
            except MultiPartException as error:
                raise BodyError(error.message) from None
            return dict(form), False
        return decode_body(await self._body(request), request.headers), False

    async def _body(self, request: Request) -> bytes:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > BODY_LIMIT:
                raise BodyError(f"a body over {BODY_LIMIT} bytes")
        return bytes(body)

    async def _old_api(self, request: Request) -> Response:
        method = request.path_params["method"]
        if method not in OLD_METHODS:
            return plain(f"ERROR : method {method} is forbidden", 403)
        try:
            identity = self._identity(request)
            arguments = decode_old_body(await self._body(request), request.headers)
        except ForbiddenError as error:
            return plain(str(error), 403)
        except BodyError as error:
            return plain(str(error), 500)
        known = OLD_METHODS[method]
        if not known:
            return plain(json.dumps([False, f"the embedded grid does not do {method}"]))
        if "command_name" not in arguments:
            return plain(f"{method}() missing 1 required positional argument: 'command_name'", 500)
        unexpected = set(arguments) - set(known)
        if unexpected:
            return plain(f"{method}() got an unexpected keyword argument '{sorted(unexpected)[0]}'", 500)
        if identity is None:
            return plain(json.dumps([False, "SSL secure connection is required"]))
        relay = self._grid.relay
        name, kwargs = arguments["command_name"], arguments.get("kwargs")
        json_outputs = arguments.get("json_outputs") == "True"
        if method == "relay_idds_command":
            manager = arguments.get("manager") == "True"
            result = await relay.command(
                identity, name, args=arguments.get("args"), kwargs=kwargs, manager=manager, json_outputs=json_outputs
            )
        else:
            result = await relay.workflow_command(identity, name, kwargs=kwargs, json_outputs=json_outputs)
        return plain(json.dumps(list(result), default=encode_special))

    async def _cached(self, request: Request) -> Response:
        path = self._grid.cache.path(request.path_params["name"])
        if path is None:
            return await self._nothing_here(request, KeyError())
        kind = "application/gzip" if path.name.endswith(("gz", ".tgz")) else "application/octet-stream"
        return FileResponse(path, media_type=kind)
