"""Who calls: tokens of the embedded grid, and how the server reads them (facts/panda.md section 2)."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import jwt

AUDIENCE: Final = "airflow-panda-embedded-grid"
ROLES: Final = ("production", "pilot")
TEN_YEARS: Final = 10 * 365 * 86400


class ForbiddenError(Exception):
    """The credentials are refused; the text goes back with HTTP 403."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls.

    :param name: PanDA's user name (the cleaned DN).
    :param nickname: preferred user name.
    :param vo: virtual organisation.
    :param role: role within it, or None.
    """

    name: str
    nickname: str
    vo: str
    role: str | None

    @property
    def production(self) -> bool:
        """Whether the caller has the production role."""
        return self.role == "production"

    @property
    def pilot(self) -> bool:
        """Whether the caller may report for jobs."""
        return self.role in ("production", "pilot")


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What a data directory's grid signs and logs in with.

    :param signing: key of the tokens.
    :param broker_login: user that may subscribe and send, with its passcode.
    :param publisher_login: user that may only send, with its passcode.
    """

    signing: str = field(repr=False)
    broker_login: str = "grid"
    broker_passcode: str = field(repr=False)
    publisher_login: str = "worker"
    publisher_passcode: str = field(repr=False)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, in one step."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.unlink(missing_ok=True)
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    scratch.replace(path)


def keys_of(data: Path) -> Keys:
    """Return the keys of a data directory, made on first use."""
    path = data / "keys.json"
    if not path.exists():
        made = {name: secrets.token_urlsafe(32) for name in ("signing", "broker_passcode", "publisher_passcode")}
        write_private(path, json.dumps(made))
    return Keys(**json.loads(path.read_text()))


def issue_token(
    keys: Keys,
    *,
    name: str,
    nickname: str,
    groups: Sequence[str],
    audience: str = AUDIENCE,
    lifetime: float = TEN_YEARS,
) -> str:
    """Return a token that the grid of these keys accepts.

    :param name: user's name.
    :param nickname: user's short name.
    :param groups: virtual organisations, and ``vo/role`` for each role.
    :param lifetime: seconds; negative for one that has expired.
    """
    now = int(time.time())
    claims = {
        "sub": nickname,
        "name": name,
        "preferred_username": nickname,
        "aud": audience,
        "iss": "embedded-grid",
        "groups": list(groups),
        "iat": now,
        "exp": now + int(lifetime),
    }
    return jwt.encode(claims, keys.signing, algorithm="HS256")


def authenticate(authorization: str | None, origin: str | None, *, keys: Keys, vos: Sequence[str]) -> Identity | None:
    """Return who calls, or None for a call without credentials.

    :param authorization: the Authorization header.
    :param origin: the Origin header: ``vo``, ``vo.role`` or ``vo:role``.
    :raises ForbiddenError: the token is refused.
    """
    if not authorization:
        return None
    scheme, _, token = authorization.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        return None
    if origin is None:
        raise ForbiddenError("ERROR : Traceback (most recent call last): 'NoneType' object has no attribute 'replace'")
    vo, _, role = origin.replace(":", ".").partition(".")
    if vo not in vos:
        raise _refused(f"Unknown vo : {vo}")
    try:
        claims: dict[str, Any] = jwt.decode(token, keys.signing, algorithms=["HS256"], audience=AUDIENCE)
    except jwt.PyJWTError as error:
        raise _refused(f"Invalid token. {error}") from None
    group = f"{vo}/{role}" if role else vo
    if group not in {str(g).removeprefix("/") for g in claims.get("groups", ())}:
        raise _refused(f"Not a member of the {group} group")
    name = " ".join(part.capitalize() for part in str(claims.get("name", "")).split())
    return Identity(name, str(claims.get("preferred_username", "")), vo, role or None)


def _refused(reason: str) -> ForbiddenError:
    return ForbiddenError(f"ERROR : Token authentication failed. {reason}")
