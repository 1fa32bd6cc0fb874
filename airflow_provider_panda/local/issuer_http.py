"""The issuer's endpoints in HTTP (OpenID Connect Discovery 1.0, RFC 6749, RFC 8628)."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from airflow_provider_panda.local.issuer import DISCOVERY_PATH, PATHS, GrantError, Issuer

FORM_LIMIT: Final = 64 * 1024


def issuer_routes(issuer: Issuer) -> list[Route]:
    """Return the routes of an issuer; none of them needs credentials."""

    async def auth_config(request: Request) -> Response:
        config = issuer.auth_config(request.path_params["name"], _base(request))
        return JSONResponse(config) if config is not None else Response("Not Found", 404)

    async def discovery(request: Request) -> Response:
        return JSONResponse(issuer.discovery(_base(request)))

    async def jwks(request: Request) -> Response:
        return JSONResponse(issuer.jwks())

    async def token(request: Request) -> Response:
        try:
            return _unstored(issuer.grant(await _form(request)))
        except GrantError as error:
            return _refusal(error)

    async def device_code(request: Request) -> Response:
        try:
            return _unstored(issuer.device_code(await _form(request), _base(request)))
        except GrantError as error:
            return _refusal(error)

    async def device_page(request: Request) -> Response:
        return HTMLResponse(issuer.device_page())

    return [
        Route("/auth/{name}_auth_config.json", auth_config, methods=["GET"]),
        Route(DISCOVERY_PATH, discovery, methods=["GET"]),
        Route(PATHS["jwks_uri"], jwks, methods=["GET"]),
        Route(PATHS["token_endpoint"], token, methods=["POST"]),
        Route(PATHS["device_authorization_endpoint"], device_code, methods=["POST"]),
        Route(PATHS["authorization_endpoint"], device_page, methods=["GET"]),
    ]


def _base(request: Request) -> str:
    """Return the URL under which the caller reaches the grid: other names and ports lead to it as well (containers)."""
    return str(request.base_url).rstrip("/")


async def _form(request: Request) -> dict[str, str]:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > FORM_LIMIT:
            raise GrantError("invalid_request", "the form is too large", 413)
    return {name: values[-1] for name, values in parse_qs(body.decode(errors="replace")).items()}


def _unstored(answer: dict[str, Any], status: int = 200) -> Response:
    return JSONResponse(answer, status, headers={"Cache-Control": "no-store", "Pragma": "no-cache"})


def _refusal(error: GrantError) -> Response:
    return _unstored({"error": error.error, "error_description": error.description}, error.status)
