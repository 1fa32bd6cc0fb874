"""Tokens: which ones the grid takes, and what it says to the others (facts/panda.md section 2)."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from airflow_provider_panda.local.auth import (
    AUDIENCE,
    ForbiddenError,
    Identity,
    Keys,
    authenticate,
    issue_token,
    keys_of,
    with_issuer,
    write_private,
)
from airflow_provider_panda.local.issuer import Person, refresh_token

URL = "http://127.0.0.1:25080"
VOS = ("wlcg", "panda_dev")
REFUSED = "ERROR : Token authentication failed. "


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    data = tmp_path_factory.mktemp("data")
    return with_issuer(data, keys_of(data), URL)


def token(keys: Keys, groups: tuple[str, ...] = ("wlcg", "/panda_dev", "wlcg/production"), **more: Any) -> str:
    return issue_token(keys, name="jane  van doe", nickname="jdoe", groups=groups, **more)


def signed(keys: Keys, *, kid: Any = ..., algorithm: str = "RS256", key: Any = None, **changes: Any) -> str:
    now = int(time.time())
    claims = {"aud": AUDIENCE, "iss": URL, "exp": now + 60, "groups": ["wlcg"], "name": "a", "sub": "a", **changes}
    headers = {"kid": keys.signing.kid if kid is ... else kid}
    return jwt.encode(
        {name: value for name, value in claims.items() if value is not ...},
        key or keys.signing.private,
        algorithm=algorithm,
        headers={name: value for name, value in headers.items() if value is not None},
    )


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("wlcg", Identity("Jane Van Doe", "jdoe", "wlcg", None)),
        ("panda_dev", Identity("Jane Van Doe", "jdoe", "panda_dev", None)),
        ("wlcg.production", Identity("Jane Van Doe", "jdoe", "wlcg", "production")),
        ("wlcg:production", Identity("Jane Van Doe", "jdoe", "wlcg", "production")),
    ],
)
def test_who_calls(keys: Keys, origin: str, expected: Identity) -> None:
    assert authenticate(f"Bearer {token(keys)}", origin, keys=keys, vos=VOS) == expected


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer ", "Basic YTpi"])
def test_without_credentials(keys: Keys, authorization: str | None) -> None:
    assert authenticate(authorization, "wlcg", keys=keys, vos=VOS) is None


@pytest.mark.parametrize(
    ("make", "origin", "text"),
    [
        (lambda k: token(k, lifetime=-5), "wlcg", "Invalid token. Signature has expired"),
        (lambda k: token(k), "nosuchvo", "Unknown vo : nosuchvo"),
        (lambda k: token(k, ("panda_dev",)), "wlcg", "Not a member of the wlcg group"),
        (lambda k: token(k, ("wlcg",)), "wlcg.production", "Not a member of the wlcg/production group"),
        (lambda k: "abcd.abcd.abcd", "wlcg", "Invalid token. Invalid header string"),
        (lambda k: "garbage", "wlcg", "Invalid token. Not enough segments"),
        (lambda k: "garbage", "nosuchvo", "Invalid token. Not enough segments"),
        (lambda k: token(k, audience="another"), "wlcg", "Invalid token. cannot extract client_id from token"),
        (lambda k: signed(k, kid=None), "wlcg", "Invalid token. cannot extract kid from headers"),
        (lambda k: signed(k, kid="other"), "wlcg", "Invalid token. JWK not found for kid=other"),
        (lambda k: signed(k, iss="http://elsewhere"), "wlcg", "Invalid token. failed to decode: Invalid issuer"),
        (lambda k: signed(k, iss=...), "wlcg", 'Invalid token. Token is missing the "iss" claim'),
        (lambda k: signed(k, exp=...), "wlcg", 'Invalid token. Token is missing the "exp" claim'),
        (lambda k: signed(k, nbf=int(time.time()) + 60), "wlcg", "Invalid token. The token is not yet valid (nbf)"),
        (lambda k: signed(k, key=generate_private_key(65537, 2048)), "wlcg", "Signature verification failed"),
        (lambda k: signed(k, algorithm="RS512"), "wlcg", "Invalid token. The specified alg value is not allowed"),
        (lambda k: signed(k, key="x" * 64, algorithm="HS256"), "wlcg", "The specified alg value is not allowed"),
        (
            lambda k: refresh_token(k, Person(name="a", nickname="a", groups=("wlcg",))),
            "wlcg",
            "cannot extract client_id from token",
        ),
    ],
)
def test_refused(keys: Keys, make: Callable[[Keys], str], origin: str, text: str) -> None:
    with pytest.raises(ForbiddenError) as refused:
        authenticate(f"Bearer {make(keys)}", origin, keys=keys, vos=VOS)
    assert str(refused.value).startswith(REFUSED)
    assert text in str(refused.value)


def test_origin_is_needed_before_anything_is_read(keys: Keys) -> None:
    with pytest.raises(ForbiddenError, match="'NoneType' object has no attribute 'replace'"):
        authenticate("Bearer garbage", None, keys=keys, vos=VOS)


def test_a_token_outlives_a_change_of_port(tmp_path: Path) -> None:
    before = with_issuer(tmp_path, keys_of(tmp_path), "http://127.0.0.1:1")
    old = token(before)
    after = with_issuer(tmp_path, keys_of(tmp_path), "http://127.0.0.1:2")
    assert authenticate(f"Bearer {old}", "wlcg", keys=after, vos=VOS) is not None
    assert after.issuers == ("http://127.0.0.1:1", "http://127.0.0.1:2")
    assert keys_of(tmp_path) == after
    assert with_issuer(tmp_path, after, "http://127.0.0.1:1").issuers[-1] == "http://127.0.0.1:1"
    new = jwt.decode(token(after), options={"verify_signature": False})
    assert new["iss"] == "http://127.0.0.1:2"


def test_a_grid_that_never_ran_has_no_issuer(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="start it once"):
        token(keys_of(tmp_path))


def test_a_directory_with_a_shared_secret_of_earlier_versions(tmp_path: Path) -> None:
    old = {"signing": "s" * 43, "broker_passcode": "bb", "publisher_passcode": "pp"}
    write_private(tmp_path / "keys.json", json.dumps(old))
    keys = with_issuer(tmp_path, keys_of(tmp_path), URL)
    assert (keys.broker_passcode, keys.publisher_passcode) == ("bb", "pp")
    with pytest.raises(ForbiddenError, match="Invalid token"):
        authenticate(
            f"Bearer {signed(keys, key=old['signing'], algorithm='HS256', kid=None)}", "wlcg", keys=keys, vos=VOS
        )


def test_keys_are_private(tmp_path: Path) -> None:
    keys = with_issuer(tmp_path, keys_of(tmp_path), URL)
    for name in ("keys.json", "signing_key.pem", "issuers.json"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600, name
    secret = str(keys.signing.private.private_numbers().d)
    assert not [s for s in (secret, keys.broker_passcode, keys.publisher_passcode) if s in repr(keys)]
    assert set(keys.signing.jwk) == {"kty", "n", "e", "kid", "use", "alg"}
