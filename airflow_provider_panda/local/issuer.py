"""The OpenID Connect issuer of the embedded grid: what panda-client, iDDS and the provider ask of one.

The real PanDA server leaves this to an identity provider (Indigo IAM at DOMA and ATLAS) and only serves the
``auth/*_auth_config.json`` files that name it (facts/panda.md section 2). Endpoints: :data:`PATHS`. Grants: a refresh
token, and a device code (RFC 8628) that the owner of the data directory has approved; nothing approves one by itself.
"""

from __future__ import annotations

import json
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt

from airflow_provider_panda.local.auth import (
    ALGORITHM,
    AUDIENCE,
    ROLES,
    TEN_YEARS,
    Keys,
    issue_token,
    sign,
    verified_claims,
    write_private,
)

CLIENT_SECRET: Final = "public-by-design"  # noqa: S105 - PanDA's page publishes it as well
"""PanDA publishes the secret of its clients in the auth_config files: panda-client has no other place for one."""

PATHS: Final = {
    "jwks_uri": "/oidc/jwks",
    "token_endpoint": "/oidc/token",
    "device_authorization_endpoint": "/oidc/devicecode",
    "authorization_endpoint": "/oidc/device",
}
"""Path of each endpoint, by its name in the discovery document."""

DISCOVERY_PATH: Final = "/.well-known/openid-configuration"
DEVICE_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"
REFRESH_AUDIENCE: Final = f"{AUDIENCE}/refresh"
"""Audience of refresh tokens: another one, so that none of them passes for an id token."""

ID_LIFETIME: Final = 3600.0
REFRESH_LIFETIME: Final = 30 * 86400.0
DEVICE_LIFETIME: Final = 600
DEVICE_INTERVAL: Final = 1
OPEN_DEVICE_CODES: Final = 200
USER_CODE_LETTERS: Final = "BCDFGHJKLMNPQRSTVWXZ"


class GrantError(Exception):
    """A token is not given (RFC 6749 section 5.2).

    :param error: the code of the reason.
    :param status: HTTP status of the answer.
    """

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(description)
        self.error, self.description, self.status = error, description, status


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Whom a token is for.

    :param groups: virtual organisations, and ``vo/role`` for each role.
    """

    name: str
    nickname: str
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """How long tokens are good for, in seconds.

    :param id_token: id tokens of the token endpoint.
    :param refresh_token: refresh tokens.
    :param rotate: whether a refresh token is good for one use, and its answer has the next.
    """

    id_token: float = ID_LIFETIME
    refresh_token: float = REFRESH_LIFETIME
    rotate: bool = False


def user_of(name: str, vos: Sequence[str]) -> Person:
    """Return the user of a grid: member of every virtual organisation, with every role."""
    groups = tuple(group for vo in vos for group in (vo, *(f"{vo}/{role}" for role in ROLES)))
    return Person(name=name, nickname="".join(name.lower().split()), groups=groups)


def id_token(keys: Keys, person: Person, *, lifetime: float = TEN_YEARS) -> str:
    """Return an id token of a person, good for so many seconds."""
    return issue_token(keys, name=person.name, nickname=person.nickname, groups=person.groups, lifetime=lifetime)


def refresh_token(keys: Keys, person: Person, *, lifetime: float = REFRESH_LIFETIME) -> str:
    """Return a refresh token of a person, good for so many seconds."""
    claims = {
        "sub": person.nickname,
        "name": person.name,
        "preferred_username": person.nickname,
        "groups": list(person.groups),
        "jti": secrets.token_urlsafe(16),
    }
    return sign(keys, claims, audience=REFRESH_AUDIENCE, lifetime=lifetime, kind="refresh+jwt")


@dataclass(slots=True)
class _DeviceCode:
    user_code: str
    expires: float


class Issuer:
    """Gives out tokens of one grid.

    :param data: the grid's data directory; approvals and used refresh tokens are kept there.
    :param vos: virtual organisations that have auth_config files.
    :param person: whom an approved device code is for.
    """

    def __init__(
        self, keys: Keys, data: Path, vos: Sequence[str], person: Person, lifetimes: Lifetimes | None = None
    ) -> None:
        self._keys, self._data, self._vos, self._person = keys, data, tuple(vos), person
        self._lifetimes = lifetimes or Lifetimes()
        self._device_codes: OrderedDict[str, _DeviceCode] = OrderedDict()

    @property
    def url(self) -> str:
        """The ``iss`` of the tokens."""
        return self._keys.issuers[-1]

    def discovery(self, base: str) -> dict[str, Any]:
        """Return the discovery document.

        :param base: URL under which the caller reaches the grid; the endpoints are named under it.
        """
        return {
            "issuer": self.url,
            **{name: base + path for name, path in PATHS.items()},
            "grant_types_supported": ["refresh_token", DEVICE_GRANT],
            "response_types_supported": ["none"],
            "subject_types_supported": ["public"],
            "scopes_supported": ["openid", "profile", "email", "offline_access"],
            "id_token_signing_alg_values_supported": [ALGORITHM],
            "token_endpoint_auth_methods_supported": ["client_secret_post", "none"],
            "claims_supported": ["iss", "sub", "aud", "exp", "nbf", "iat", "name", "preferred_username", "groups"],
        }

    def jwks(self) -> dict[str, Any]:
        """Return the key set."""
        return {"keys": [self._keys.signing.jwk]}

    def auth_config(self, name: str, base: str) -> dict[str, Any] | None:
        """Return an auth_config file, or None if there is none.

        :param name: what stands before ``_auth_config.json``: ``vo`` or ``vo.role``.
        :param base: URL under which the caller reaches the grid.
        """
        vo, _, role = name.partition(".")
        if vo not in self._vos or (name != vo and role not in ROLES):
            return None
        return {
            "client_id": AUDIENCE,
            "client_secret": CLIENT_SECRET,
            "audience": AUDIENCE,
            "oidc_config_url": base + DISCOVERY_PATH,
            "vo": name,
            "no_verify": "True",
            "robot_ids": "",
        }

    def grant(self, form: Mapping[str, str]) -> dict[str, Any]:
        """Return the answer of the token endpoint to a form.

        :raises GrantError: no token is given.
        """
        if form.get("client_id") != AUDIENCE or form.get("client_secret", CLIENT_SECRET) != CLIENT_SECRET:
            raise GrantError("invalid_client", "no such client, or the wrong secret", 401)
        match form.get("grant_type"):
            case "refresh_token":
                return self._refreshed(_needed(form, "refresh_token"))
            case kind if kind == DEVICE_GRANT:
                return self._tokens(self._approved(_needed(form, "device_code")))
            case None:
                raise GrantError("invalid_request", "grant_type is missing")
            case _:
                raise GrantError("unsupported_grant_type", "only refresh_token and device_code")

    def _refreshed(self, token: str) -> dict[str, Any]:
        try:
            claims = verified_claims(token, self._keys, audience=REFRESH_AUDIENCE)
        except jwt.PyJWTError:
            raise GrantError("invalid_grant", "the refresh token is wrong or has expired") from None
        person = Person(
            name=claims["name"], nickname=claims["preferred_username"], groups=tuple(str(g) for g in claims["groups"])
        )
        used = self._used()
        if claims["jti"] in used:
            raise GrantError("invalid_grant", "the refresh token has been used")
        if not self._lifetimes.rotate:
            return self._tokens(person, keeping=token)
        used[claims["jti"]] = claims["exp"]
        now = time.time()
        write_private(self._used_file, json.dumps({jti: exp for jti, exp in used.items() if exp > now}))
        return self._tokens(person)

    def _tokens(self, person: Person, keeping: str | None = None) -> dict[str, Any]:
        fresh = id_token(self._keys, person, lifetime=self._lifetimes.id_token)
        return {
            "access_token": fresh,
            "id_token": fresh,
            "refresh_token": keeping or refresh_token(self._keys, person, lifetime=self._lifetimes.refresh_token),
            "token_type": "Bearer",
            "expires_in": int(self._lifetimes.id_token),
            "scope": "openid profile email offline_access",
        }

    @property
    def _used_file(self) -> Path:
        return self._data / "used_refresh_tokens.json"

    def _used(self) -> dict[str, float]:
        path = self._used_file
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def device_code(self, form: Mapping[str, str], base: str) -> dict[str, Any]:
        """Return the answer of the device authorization endpoint (RFC 8628 section 3.2).

        :raises GrantError: the client is unknown.
        """
        if form.get("client_id") != AUDIENCE:
            raise GrantError("invalid_client", "no such client", 401)
        code = secrets.token_urlsafe(32)
        letters = [secrets.choice(USER_CODE_LETTERS) for _ in range(8)]
        user_code = "".join(letters[:4]) + "-" + "".join(letters[4:])
        self._device_codes[code] = _DeviceCode(user_code, time.time() + DEVICE_LIFETIME)
        while len(self._device_codes) > OPEN_DEVICE_CODES:
            self._device_codes.popitem(last=False)
        page = base + PATHS["authorization_endpoint"]
        return {
            "device_code": code,
            "user_code": user_code,
            "verification_uri": page,
            "verification_uri_complete": f"{page}?user_code={user_code}",
            "expires_in": DEVICE_LIFETIME,
            "interval": DEVICE_INTERVAL,
        }

    def _approved(self, code: str) -> Person:
        waiting = self._device_codes.get(code)
        if waiting is None:
            raise GrantError("invalid_grant", "no such device code")
        if waiting.expires < time.time():
            del self._device_codes[code]
            raise GrantError("expired_token", "the device code has expired")
        approval = approval_file(self._data, waiting.user_code)
        if not approval.exists():
            raise GrantError("authorization_pending", "nobody has approved the code yet")
        approval.unlink()
        del self._device_codes[code]
        return self._person

    def device_page(self) -> str:
        """Return what the page says that a device code sends its user to."""
        return (
            "<!DOCTYPE html><html><head><title>Embedded grid: approve a device</title></head><body>"
            "<h1>Approve a device</h1><p>This grid knows its user by one thing: who may write to its data directory. "
            "As that user, on the grid's machine, run</p>"
            "<pre>python -m airflow_provider_panda.local.issue --data DIR --approve CODE</pre>"
            "<p>with that directory and the code that the device shows; it is also at the end of this page's address."
            "</p></body></html>"
        )


def approval_file(data: Path, user_code: str) -> Path:
    """Return the file whose existence approves a device code; only the owner of the data directory can make it.

    :raises ValueError: this is no user code.
    """
    first, _, second = user_code.partition("-")
    if len(first) != 4 or len(second) != 4 or not set(first + second) <= set(USER_CODE_LETTERS):
        raise ValueError("a user code is eight letters with a hyphen, such as BCDF-GHJK")
    return data / f"approved_device_{user_code}"


def _needed(form: Mapping[str, str], name: str) -> str:
    value = form.get(name)
    if not value:
        raise GrantError("invalid_request", f"{name} is missing")
    return value
