"""The OIDC issuer of a PanDA server: where it is, and one exchange with it, a new id token for a refresh token.

Found as panda-client 2.2 does: ``<PanDA>/auth/<vo>_auth_config.json`` names ``oidc_config_url``, and that names
``token_endpoint``. Nothing here can ask anybody anything.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from airflow_provider_panda.exceptions import (
    GridAuthError,
    GridError,
    GridRefusedError,
    GridServerError,
    GridUnreachableError,
)
from airflow_provider_panda.grid.addresses import bare, encrypted_or_local, reason
from airflow_provider_panda.grid.answers import plain_text
from airflow_provider_panda.grid.endpoint import AuthKind, PandaEndpoint, auth_config_url
from airflow_provider_panda.grid.identity.certificates import tls_context, trust_certifi

if TYPE_CHECKING:
    import httpx

DEADLINE: Final = 10.0
"""Seconds for all of one exchange; a renewal has three at most."""

_ANSWER_LIMIT: Final = 1024 * 1024
_LOG_IN_AGAIN: Final = "Log in once more with panda-client (docs/connections.md) and give the new refresh token"


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """Where tokens are renewed.

    :param token_url: token endpoint.
    :param client_id: PanDA's client at the issuer.
    :param client_secret: its secret, which PanDA publishes; never in ``repr``.
    """

    token_url: str
    client_id: str
    client_secret: str | None = field(default=None, repr=False)


async def find_issuer(endpoint: PandaEndpoint) -> Issuer:
    """Return the issuer of an endpoint's VO.

    :raises GridError: a page cannot be read, or lacks what it must say.
    """
    url = auth_config_url(endpoint)
    config = await _exchange(endpoint, "GET", url)
    oidc_url = _named(config, "oidc_config_url", url)
    described = await _exchange(endpoint, "GET", oidc_url)
    token_url = _named(described, "token_endpoint", oidc_url)
    if url.startswith("https:") and not (encrypted_or_local(token_url) and encrypted_or_local(oidc_url)):
        raise GridRefusedError(
            f"The token endpoint {bare(token_url)} is not encrypted; a refresh token is not sent there. "
            "Ask PanDA's operators for an https issuer",
            url=bare(token_url),
        )
    secret = config.get("client_secret")
    return Issuer(
        token_url=token_url,
        client_id=_named(config, "client_id", url),
        client_secret=secret if isinstance(secret, str) and secret else None,
    )


async def renew(endpoint: PandaEndpoint, issuer: Issuer, refresh_token: str, *, source: str) -> dict[str, Any]:
    """Return the issuer's answer to a refresh token: ``id_token``, and perhaps a new ``refresh_token``.

    :param source: where the refresh token comes from, for messages.
    :raises GridAuthError: the issuer does not take it; another attempt helps only with another refresh token.
    :raises GridError: no usable answer.
    """
    form = {"grant_type": "refresh_token", "client_id": issuer.client_id, "refresh_token": refresh_token}
    if issuer.client_secret:
        form["client_secret"] = issuer.client_secret
    answer = await _exchange(endpoint, "POST", issuer.token_url, form=form, source=source)
    if not isinstance(answer.get("id_token"), str) or not answer["id_token"]:
        raise GridAuthError(
            f"The issuer at {bare(issuer.token_url)} renews no id token for the {source}. {_LOG_IN_AGAIN}; it must "
            "be made with the scopes openid and offline_access",
            url=bare(issuer.token_url),
        )
    return answer


async def _exchange(
    endpoint: PandaEndpoint, method: str, url: str, *, form: dict[str, str] | None = None, source: str = ""
) -> dict[str, Any]:
    import httpx

    plain = bare(url)
    try:
        async with asyncio.timeout(DEADLINE):
            tls: ssl.SSLContext | bool = await asyncio.to_thread(_context, endpoint, url)
            async with (
                httpx.AsyncClient(verify=tls, trust_env=False, follow_redirects=False, timeout=DEADLINE) as http,
                http.stream(method, url, data=form, headers={"Accept": "application/json"}) as response,
            ):
                return await _read(response, plain, source, hide=form["refresh_token"] if form else "")
    except TimeoutError:
        raise GridUnreachableError(
            f"{plain} gave no complete answer within {DEADLINE:g} s, so the token cannot be renewed. Try again",
            url=plain,
        ) from None
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
        raise GridUnreachableError(
            f"{plain} does not answer, so the token cannot be renewed: {reason(error)}", url=plain
        ) from None


async def _read(response: httpx.Response, url: str, source: str, *, hide: str) -> dict[str, Any]:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > _ANSWER_LIMIT:
            raise GridServerError(f"{url} answers with more than a token. Check it", url=url, status=200)
    try:
        answer = json.loads(bytes(body))
    except (ValueError, RecursionError):
        answer = None
    status = response.status_code
    if status == 200 and isinstance(answer, dict):
        return answer
    raise error_of(status, answer, url=url, source=source, hide=hide)


def error_of(status: int, answer: Any, *, url: str, source: str, hide: str = "") -> GridError:
    """Return the error for an answer that is none.

    :param status: HTTP status.
    :param answer: the decoded JSON, or None (errors of a token endpoint: RFC 6749 section 5.2).
    :param source: where the refresh token comes from; empty for the pages that name the issuer.
    :param hide: the refresh token, which issuers like to repeat in their answers.
    """
    said = answer if isinstance(answer, dict) else {}
    texts = [str(said[name]) for name in ("error", "error_description") if said.get(name)]
    words = ": ".join(plain_text(text.replace(hide, "***") if hide else text, 200) for text in texts)
    if source and status in (400, 401, 403) and words:
        return GridAuthError(
            f"The issuer at {url} refuses the refresh token of the {source} ({words}). {_LOG_IN_AGAIN}", url=url
        )
    if status == 404 or (status == 200 and not source):
        return GridRefusedError(
            f"{url} is no page that names an issuer (HTTP {status}), so the token cannot be renewed. "
            "Check the connection fields vo and auth_config_url",
            url=url,
        )
    return GridServerError(
        f"{url} answers with HTTP {status}{f' ({words})' if words else ''}, so the token cannot be renewed. "
        "Try again, or ask the operators of the issuer",
        url=url,
        status=status,
    )


def _named(page: dict[str, Any], name: str, url: str) -> str:
    value = page.get(name)
    if not isinstance(value, str) or not value:
        raise GridRefusedError(
            f"{bare(url)} does not name {name}, so the token cannot be renewed. Check the connection fields vo and "
            "auth_config_url, or ask PanDA's operators",
            url=bare(url),
        )
    return value


def _context(endpoint: PandaEndpoint, url: str) -> ssl.SSLContext:
    """Return TLS settings for PanDA's own host, or for an issuer elsewhere: never without verification there."""
    bare_endpoint = replace(endpoint, auth=AuthKind.NONE)
    own = {urlsplit(address).hostname for address in (endpoint.url, auth_config_url(endpoint))}
    if urlsplit(url).hostname in own:
        return tls_context(bare_endpoint)
    context = tls_context(replace(bare_endpoint, ca_path=None, verify_host=True))
    if endpoint.ca_path is not None:
        folder = Path(endpoint.ca_path).is_dir()
        context.load_verify_locations(**{"capath" if folder else "cafile": endpoint.ca_path})
    trust_certifi(context)
    return context
