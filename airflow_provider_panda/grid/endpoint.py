"""Where a PanDA server is and who asks: the value that crosses the seam between hooks and the grid."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final
from urllib.parse import urlsplit


class AuthKind(Enum):
    """How a caller proves who it is."""

    NONE = "none"
    """No credentials: some read-only calls of a real server only."""
    TOKEN = "token"  # noqa: S105 - the name of a kind, not a secret
    """An OIDC id token given as text. Also what the embedded grid wants."""
    TOKEN_FILE = "token_file"  # noqa: S105 - likewise
    """A file with an OIDC id token, read again whenever it changes, or panda-client's ``.token``, which is renewed."""
    REFRESH = "refresh"
    """A refresh token, by which id tokens are obtained and renewed."""
    X509 = "x509"
    """A proxy or certificate with key in one PEM file."""


TOKEN_KINDS: Final = frozenset({AuthKind.TOKEN, AuthKind.TOKEN_FILE, AuthKind.REFRESH})
"""The kinds that end in a bearer token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PandaEndpoint:
    """One PanDA server and one identity. Hashable by value: a process has one client per endpoint.

    :param url: base URL such as ``https://pandaserver-doma.cern.ch:443`` (scheme, host, port; a path is ignored).
    :param cache_url: base URL of the cache server; None: the same as ``url``.
    :param auth: how to authenticate.
    :param token: OIDC token for ``AuthKind.TOKEN``; never in ``repr``.
    :param token_file: path for ``AuthKind.TOKEN_FILE``; for ``AuthKind.REFRESH`` a file with a refresh token.
    :param refresh_token: refresh token for ``AuthKind.REFRESH``, if no file holds it; never in ``repr``.
    :param auth_config_url: page that names the issuer; None: the one of the VO on ``url``, as panda-client finds it.
    :param proxy_file: path for ``AuthKind.X509``.
    :param vo: virtual organisation, with role as ``vo.role``; sent as Origin with a token.
    :param verify_host: whether the server's certificate is verified.
    :param ca_path: file or directory of CA certificates; None for the system's.
    :param timeout: deadline of one call in seconds.
    """

    url: str
    cache_url: str | None = None
    auth: AuthKind = AuthKind.NONE
    token: str | None = field(default=None, repr=False)
    token_file: str | None = None
    refresh_token: str | None = field(default=None, repr=False)
    auth_config_url: str | None = None
    proxy_file: str | None = None
    vo: str = ""
    verify_host: bool = True
    ca_path: str | None = None
    timeout: float = 60.0


def auth_config_url(endpoint: PandaEndpoint) -> str:
    """Return the address of the page that names the issuer of a VO, which may hold a role (panda-client 2.2)."""
    if endpoint.auth_config_url:
        return endpoint.auth_config_url
    parts = urlsplit(endpoint.url)
    vo = endpoint.vo.replace(":", ".")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/auth/{vo}_auth_config.json"


def with_credentials_of(endpoint: PandaEndpoint, other: PandaEndpoint) -> PandaEndpoint:
    """Return an endpoint that proves who asks as another one does; where it is and how it is called stays."""
    return replace(
        endpoint,
        auth=other.auth,
        token=other.token,
        token_file=other.token_file,
        refresh_token=other.refresh_token,
        auth_config_url=auth_config_url(other) if other.auth in TOKEN_KINDS else None,
        proxy_file=other.proxy_file,
        vo=other.vo,
    )
