"""Who calls: tokens of the embedded grid, and how the server reads them (facts/panda.md section 2)."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key

AUDIENCE: Final = "airflow-panda-embedded-grid"
"""Audience of the tokens, and the client id under which panda-client and iDDS know it."""

ALGORITHM: Final = "RS256"
"""The only signature that the real server takes."""

ROLES: Final = ("production", "pilot")
TEN_YEARS: Final = 10 * 365 * 86400
KEY_BITS: Final = 2048
REMEMBERED_ISSUERS: Final = 1000


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


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The RSA key of a data directory.

    :param kid: its name in the header of a token and in the key set: the RFC 7638 thumbprint, so it stays the same.
    """

    kid: str
    private: RSAPrivateKey = field(repr=False, compare=False)

    @classmethod
    def of(cls, private: RSAPrivateKey) -> SigningKey:
        """Return the signing key of a private key."""
        jwk = public_jwk(private)
        named = json.dumps({name: jwk[name] for name in ("e", "kty", "n")}, separators=(",", ":"))
        return cls(_unpadded(hashlib.sha256(named.encode()).digest()), private)

    @property
    def jwk(self) -> dict[str, str]:
        """The public half as it stands in the key set (RFC 7517)."""
        return {**public_jwk(self.private), "kid": self.kid, "use": "sig", "alg": ALGORITHM}


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What a data directory's grid signs and logs in with.

    :param signing: key of the tokens.
    :param issuers: every URL under which the grid of this directory has issued tokens, the current one last.
    :param broker_login: user that may subscribe and send, with its passcode.
    :param publisher_login: user that may only send, with its passcode.
    """

    signing: SigningKey
    issuers: tuple[str, ...] = ()
    broker_login: str = "grid"
    broker_passcode: str = field(repr=False)
    publisher_login: str = "worker"
    publisher_passcode: str = field(repr=False)


def public_jwk(private: RSAPrivateKey) -> dict[str, str]:
    """Return the members of a JWK that make up an RSA public key (RFC 7518 section 6.3.1)."""
    numbers = private.public_key().public_numbers()
    return {"kty": "RSA", "n": _number(numbers.n), "e": _number(numbers.e)}


def _number(value: int) -> str:
    return _unpadded(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def _unpadded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, in one step."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.unlink(missing_ok=True)
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    scratch.replace(path)


def keys_of(data: Path) -> Keys:
    """Return the keys of a data directory, made on first use.

    Directories of earlier versions have a shared secret among their keys, which nothing uses any more.
    """
    path = data / "keys.json"
    if not path.exists():
        write_private(
            path, json.dumps({name: secrets.token_urlsafe(32) for name in ("broker_passcode", "publisher_passcode")})
        )
    kept = json.loads(path.read_text())
    issuers = _issuers_file(data)
    return Keys(
        signing=_signing_key_of(data),
        issuers=tuple(json.loads(issuers.read_text())) if issuers.exists() else (),
        broker_passcode=kept["broker_passcode"],
        publisher_passcode=kept["publisher_passcode"],
    )


def _signing_key_of(data: Path) -> SigningKey:
    path = data / "signing_key.pem"
    if not path.exists():
        made = generate_private_key(public_exponent=65537, key_size=KEY_BITS)
        pem = made.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_private(path, pem.decode())
    private = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(private, RSAPrivateKey):
        raise ValueError(f"{path} holds no RSA key; remove it to have a new one made (old tokens then fail)")
    return SigningKey.of(private)


def _issuers_file(data: Path) -> Path:
    return data / "issuers.json"


def with_issuer(data: Path, keys: Keys, url: str) -> Keys:
    """Return the keys with this URL as the current issuer, and remember it in the data directory.

    OpenID Connect has one issuer URL, and that of a grid on a free port is another after each start. Tokens that were
    issued under an earlier one stay good here, since the key is the same.
    """
    issuers = (*(known for known in keys.issuers if known != url), url)[-REMEMBERED_ISSUERS:]
    write_private(_issuers_file(data), json.dumps(issuers))
    return Keys(
        signing=keys.signing,
        issuers=issuers,
        broker_passcode=keys.broker_passcode,
        publisher_passcode=keys.publisher_passcode,
    )


def issue_token(
    keys: Keys,
    *,
    name: str,
    nickname: str,
    groups: Sequence[str],
    audience: str = AUDIENCE,
    lifetime: float = TEN_YEARS,
) -> str:
    """Return an id token that the grid of these keys accepts.

    :param name: user's name.
    :param nickname: user's short name.
    :param groups: virtual organisations, and ``vo/role`` for each role.
    :param lifetime: seconds; negative for one that has expired.
    :raises LookupError: the grid has no URL yet.
    """
    claims = {"name": name, "preferred_username": nickname, "sub": nickname, "groups": list(groups)}
    return sign(keys, claims, audience=audience, lifetime=lifetime)


def sign(keys: Keys, claims: dict[str, Any], *, audience: str, lifetime: float, kind: str = "JWT") -> str:
    """Return a signed token of these claims, with issuer, audience and times.

    :param lifetime: seconds.
    :param kind: what the header says that it is.
    :raises LookupError: the grid has no URL yet.
    """
    if not keys.issuers:
        raise LookupError("this grid has never run, so its issuer has no URL; start it once")
    now = int(time.time())
    issued = min(now, now + int(lifetime))
    timed = {"iss": keys.issuers[-1], "aud": audience, "iat": issued, "nbf": issued, "exp": now + int(lifetime)}
    headers = {"kid": keys.signing.kid, "typ": kind}
    return jwt.encode({**claims, **timed}, keys.signing.private, algorithm=ALGORITHM, headers=headers)


def verified_claims(token: str, keys: Keys, *, audience: str) -> dict[str, Any]:
    """Return what a token says, in the order and with the words in which the real server looks.

    :raises jwt.PyJWTError: it does not hold.
    """
    unverified = jwt.decode(token, options={"verify_signature": False})
    if unverified.get("aud") != audience:
        raise jwt.InvalidTokenError("cannot extract client_id from token")
    kid = jwt.get_unverified_header(token).get("kid")
    if kid is None:
        raise jwt.InvalidTokenError("cannot extract kid from headers")
    if kid != keys.signing.kid:
        raise jwt.InvalidTokenError(f"JWK not found for kid={kid}")
    claims: dict[str, Any] = jwt.decode(
        token,
        keys.signing.private.public_key(),
        algorithms=[ALGORITHM],
        audience=audience,
        options={"require": ["exp", "iss"]},
    )
    if claims["iss"] not in keys.issuers:
        raise jwt.InvalidIssuerError("failed to decode: Invalid issuer")
    return claims


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
    try:
        claims = verified_claims(token, keys, audience=AUDIENCE)
    except jwt.PyJWTError as error:
        raise _refused(f"Invalid token. {error}") from None
    vo, _, role = origin.replace(":", ".").partition(".")
    if vo not in vos:
        raise _refused(f"Unknown vo : {vo}")
    group = f"{vo}/{role}" if role else vo
    if group not in {str(g).removeprefix("/") for g in claims.get("groups", ())}:
        raise _refused(f"Not a member of the {group} group")
    return Identity(
        clean_name(str(claims.get("name", ""))), str(claims.get("preferred_username", "")), vo, role or None
    )


def clean_name(name: str) -> str:
    """Return the user name that PanDA makes of a token's ``name``."""
    return " ".join(part.capitalize() for part in name.split())


def _refused(reason: str) -> ForbiddenError:
    return ForbiddenError(f"ERROR : Token authentication failed. {reason}")
