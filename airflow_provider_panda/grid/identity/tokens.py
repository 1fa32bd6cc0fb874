"""What tokens say of themselves: pure functions on id tokens and on the files that hold them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final

LONGEST_MARGIN: Final = 300.0
"""Seconds before its expiry at which a token is renewed; a short-lived one later, see :func:`need`."""

_SHARE: Final = 0.2
"""Share of a token's life at the end of which it is renewed, if that is less than the longest margin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """An id token and what renews it.

    :param id_token: OIDC id token, or None before the first renewal.
    :param refresh_token: refresh token, or None where the id token cannot be renewed.
    """

    id_token: str | None = field(default=None, repr=False)
    refresh_token: str | None = field(default=None, repr=False)


class Need(Enum):
    """Whether an id token has to be renewed."""

    NONE = "none"
    SOON = "soon"
    """It is still good, but not for long: renew it, and go on with it if that fails."""
    NOW = "now"
    """There is none, it expired, or the server refused it."""


def claims(token: str) -> dict[str, Any]:
    """Return the claims of a JWT without verifying it; empty for anything else."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        decoded = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return {}
    return decoded if isinstance(decoded, dict) else {}


def expiry(token: str) -> float | None:
    """Return the Unix time in seconds at which a JWT expires, or None if it does not say."""
    return _seconds(claims(token), "exp")


def need(tokens: Tokens, *, now: float, refused: str | None = None) -> Need:
    """Return whether an id token has to be renewed.

    :param now: Unix time in seconds.
    :param refused: id token that the server did not take.
    """
    token = tokens.id_token
    if token is None or token == refused:
        return Need.NOW
    said = claims(token)
    expires, issued = _seconds(said, "exp"), _seconds(said, "iat")
    if expires is None:
        return Need.NONE
    if expires <= now:
        return Need.NOW
    lifetime = None if issued is None else expires - issued
    margin = LONGEST_MARGIN if lifetime is None else min(LONGEST_MARGIN, max(lifetime, 0.0) * _SHARE)
    return Need.SOON if expires - now <= margin else Need.NONE


def parse_tokens(text: str, *, bare_is_refresh: bool) -> Tokens | None:
    """Return what a token file holds, or None if it is JSON without tokens.

    :param text: a bare token, or the JSON of a token answer, as panda-client keeps in ``.token``.
    :param bare_is_refresh: whether a bare token is a refresh token.
    """
    text = text.strip()
    if text.startswith("{"):
        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError):
            return None
        tokens = tokens_in(parsed) if isinstance(parsed, dict) else Tokens()
        return tokens if tokens != Tokens() else None
    return Tokens(refresh_token=text) if bare_is_refresh else Tokens(id_token=text)


def tokens_in(answer: Mapping[str, Any]) -> Tokens:
    """Return the tokens of an OAuth 2.0 token answer (RFC 6749 section 5.1 with OpenID Connect's ``id_token``)."""
    found = {
        name: value.strip() if isinstance(value := answer.get(name), str) else None
        for name in ("id_token", "refresh_token")
    }
    return Tokens(id_token=found["id_token"] or None, refresh_token=found["refresh_token"] or None)


def newest(one: Tokens, other: Tokens) -> str | None:
    """Return the id token that expires last."""
    held = [token for token in (one.id_token, other.id_token) if token]
    return max(held, key=lambda token: expiry(token) or 0.0, default=None)


def groups(token: str) -> tuple[str, ...]:
    """Return the groups that a token names, without leading slashes (claims ``groups`` or ``wlcg.groups``)."""
    said = claims(token)
    for name in ("groups", "wlcg.groups"):
        listed = said.get(name)
        if isinstance(listed, list):
            return tuple(str(group).removeprefix("/") for group in listed)
    return ()


def utc_time(moment: float) -> str:
    """Return a Unix time in words."""
    try:
        return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"{moment:g} s"


def _seconds(said: Mapping[str, Any], name: str) -> float | None:
    value = said.get(name)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
