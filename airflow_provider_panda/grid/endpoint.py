"""Where a PanDA server is and who asks: the value that crosses the seam between hooks and the grid."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class AuthKind(Enum):
    """How a caller proves who it is."""

    NONE = "none"
    """No credentials: some read-only calls of a real server only."""
    TOKEN = "token"  # noqa: S105 - the name of a kind, not a secret
    """An OIDC id token given as text. Also what the embedded grid wants."""
    TOKEN_FILE = "token_file"  # noqa: S105
    """A file with an OIDC id token, read again whenever it changes."""
    X509 = "x509"
    """A proxy or certificate with key in one PEM file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PandaEndpoint:
    """One PanDA server and one identity. Hashable by value: a process has one client per endpoint.

    :param url: base URL such as ``https://pandaserver-doma.cern.ch:443`` (scheme, host, port; a path is ignored).
    :param cache_url: base URL of the cache server; None: the same as ``url``.
    :param auth: how to authenticate.
    :param token: OIDC token for ``AuthKind.TOKEN``; never in ``repr``.
    :param token_file: path for ``AuthKind.TOKEN_FILE``.
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
    proxy_file: str | None = None
    vo: str = ""
    verify_host: bool = True
    ca_path: str | None = None
    timeout: float = 30.0
