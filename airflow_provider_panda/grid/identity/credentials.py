"""Who asks: tokens of an endpoint, read from it and from nowhere else."""

from __future__ import annotations

import time
from collections.abc import Callable

from airflow_provider_panda.exceptions import GridAuthError
from airflow_provider_panda.grid.endpoint import TOKEN_KINDS, AuthKind, PandaEndpoint
from airflow_provider_panda.grid.identity.tokens import claims, expiry, utc_time
from airflow_provider_panda.grid.identity.tokenstore import TokenStore


def usable_token(text: str, *, source: str, url: str, now: float) -> str:
    """Return a token ready for a header.

    :param text: what the field or file holds.
    :param source: where it comes from, for messages.
    :param url: server it is for.
    :param now: Unix time in seconds.
    :raises GridAuthError: empty, malformed or expired; the message names the source, never the token.
    """
    token = text.strip()
    if not token:
        raise GridAuthError(f"The {source} is empty. Put an OIDC id token there", url=url)
    if not token.isascii() or not token.isprintable() or " " in token:
        raise GridAuthError(
            f"The {source} holds no token: it has blanks, line breaks or odd characters. Put the bare id token there",
            url=url,
        )
    expires = expiry(token)
    if expires is not None and expires <= now:
        raise GridAuthError(
            f"The token in the {source} expired at {utc_time(expires)}. Renew it; with a refresh token that happens "
            "by itself (docs/connections.md)",
            url=url,
        )
    return token


class Credentials:
    """The identity of one endpoint. Token files are read again when they change."""

    def __init__(self, endpoint: PandaEndpoint, clock: Callable[[], float] = time.time) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self.store = TokenStore(endpoint)

    @property
    def reads_files(self) -> bool:
        """Whether :meth:`headers` reads from disk."""
        return self._endpoint.auth in (AuthKind.TOKEN_FILE, AuthKind.REFRESH)

    def token(self) -> str | None:
        """Return the token, or None for an endpoint without.

        :raises GridAuthError: missing, unreadable, malformed or expired.
        """
        endpoint = self._endpoint
        if endpoint.auth not in TOKEN_KINDS:
            return None
        held = self.store.read().id_token or ""
        return usable_token(held, source=self.store.source, url=endpoint.url, now=self._clock())

    def headers(self) -> dict[str, str]:
        """Return the headers that prove who asks: ``Authorization`` and ``Origin`` (the VO, mandatory with it)."""
        token = self.token()
        if token is None:
            return {}
        headers = {"Authorization": f"Bearer {token}"}
        if self._endpoint.vo:
            headers["Origin"] = self._endpoint.vo
        return headers

    def user_name(self) -> str | None:
        """Return the owner's name as PanDA makes it of the ``name`` claim, or None if there is none."""
        return user_name(self.token())


def user_name(token: str | None) -> str | None:
    """Return a user's name as PanDA makes it of the ``name`` claim of a token, or None if there is none."""
    name = claims(token).get("name") if token else None
    return " ".join(word.capitalize() for word in name.split()) if isinstance(name, str) else None
