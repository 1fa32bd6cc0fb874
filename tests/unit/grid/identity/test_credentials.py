"""Tokens: read from the endpoint only, read again when they change, noticed when expired, never shown."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_panda.exceptions import GridAuthError
from airflow_provider_panda.grid.endpoint import AuthKind, PandaEndpoint
from airflow_provider_panda.grid.identity.certificates import tls_context
from airflow_provider_panda.grid.identity.credentials import Credentials
from airflow_provider_panda.grid.identity.tokens import claims

URL = "https://panda.example:443"


def jwt(**content: Any) -> str:
    parts = [{"alg": "RS256"}, content]
    return ".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts) + ".c2ln"


def held(now: float = 1000.0, **fields: Any) -> Credentials:
    return Credentials(PandaEndpoint(url=URL, vo="wlcg", **fields), clock=lambda: now)


def test_no_credentials_no_headers() -> None:
    assert held().headers() == {}


def test_token_and_vo() -> None:
    token = jwt(exp=2000, name="tEST user")
    credentials = held(auth=AuthKind.TOKEN, token=f"  {token}\n")
    assert credentials.headers() == {"Authorization": f"Bearer {token}", "Origin": "wlcg"}
    assert credentials.user_name() == "Test User"


@pytest.mark.parametrize("token", ["embedded-grid-token", jwt(), jwt(exp="soon"), "a.b.c"])
def test_tokens_without_a_known_end_are_used(token: str) -> None:
    assert held(auth=AuthKind.TOKEN, token=token).token() == token


@pytest.mark.parametrize(
    ("token", "says"),
    [
        (jwt(exp=999), "expired at 1970-01-01 00:16:39 UTC"),
        ("", "is empty"),
        (" \n", "is empty"),
        ("two words", "no token"),
        ("a\nInjected: header", "no token"),
        ("tökén", "no token"),
    ],
)
def test_an_unusable_token_is_told_before_use_and_not_shown(token: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(token)
    for credentials, source in (
        (held(auth=AuthKind.TOKEN, token=token), "field password"),
        (held(auth=AuthKind.TOKEN_FILE, token_file=str(file)), str(file)),
    ):
        with pytest.raises(GridAuthError, match=says) as caught:
            credentials.headers()
        assert source in str(caught.value)
        assert not token.strip() or token.strip() not in str(caught.value)


def test_a_changed_token_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one")
    credentials = held(auth=AuthKind.TOKEN_FILE, token_file=str(file))
    assert credentials.token() == "one"
    file.write_text("two")
    os.utime(file, ns=(1, 1))
    assert credentials.token() == "two"


def test_a_missing_token_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(GridAuthError, match="nowhere"):
        held(auth=AuthKind.TOKEN_FILE, token_file=str(tmp_path / "nowhere")).headers()


@pytest.mark.parametrize("text", ["", "a.b", "a.!!.c", "a.W10.c"])
def test_claims_of_what_is_no_jwt(text: str) -> None:
    assert claims(text) == {}


def test_a_broken_proxy_is_named(tmp_path: Path) -> None:
    proxy = tmp_path / "proxy.pem"
    proxy.write_text("no pem")
    for path in (str(proxy), str(tmp_path / "nowhere")):
        with pytest.raises(GridAuthError, match="proxy_file"):
            tls_context(PandaEndpoint(url=URL, auth=AuthKind.X509, proxy_file=path))
    with pytest.raises(GridAuthError, match="ca_path"):
        tls_context(PandaEndpoint(url=URL, ca_path=str(proxy)))


def test_a_token_is_in_no_repr() -> None:
    assert "sesame" not in repr(PandaEndpoint(url=URL, token="sesame"))
