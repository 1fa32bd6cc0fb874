"""The issuer: documents, refresh tokens and device codes."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import jwt
import pytest

from airflow_provider_panda.local import issue
from airflow_provider_panda.local.auth import AUDIENCE, Keys, authenticate, keys_of, with_issuer
from airflow_provider_panda.local.issuer import (
    CLIENT_SECRET,
    DEVICE_GRANT,
    GrantError,
    Issuer,
    Lifetimes,
    Person,
    approval_file,
    refresh_token,
    user_of,
)

BASE = "http://grid.example:25080"
VOS = ("wlcg", "panda_dev")
JANE = Person(name="Jane Doe", nickname="jdoe", groups=("wlcg",))
CLIENT = {"client_id": AUDIENCE, "client_secret": CLIENT_SECRET}


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return with_issuer(tmp_path, keys_of(tmp_path), "http://127.0.0.1:25080")


def issuer_of(keys: Keys, data: Path, **lifetimes: Any) -> Issuer:
    return Issuer(keys, data, VOS, user_of("Grid User", VOS), Lifetimes(**lifetimes))


def refreshed(issuer: Issuer, token: str, **more: str) -> dict[str, Any]:
    return issuer.grant({**CLIENT, "grant_type": "refresh_token", "refresh_token": token, **more})


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("wlcg", True), ("panda_dev", True), ("wlcg.production", True), ("wlcg.pilot", True),
        ("nosuchvo", False), ("wlcg.nosuchrole", False), ("wlcg.", False), ("", False), ("nosuchvo.production", False),
    ],
)  # fmt: skip
def test_auth_config_files(keys: Keys, tmp_path: Path, name: str, known: bool) -> None:
    config = issuer_of(keys, tmp_path).auth_config(name, BASE)
    assert (config is not None) is known
    if config is not None:
        assert config == {
            "client_id": AUDIENCE,
            "client_secret": CLIENT_SECRET,
            "audience": AUDIENCE,
            "oidc_config_url": f"{BASE}/.well-known/openid-configuration",
            "vo": name,
            "no_verify": "True",
            "robot_ids": "",
        }


def test_the_documents_verify_a_token(keys: Keys, tmp_path: Path) -> None:
    issuer = issuer_of(keys, tmp_path)
    found = issuer.discovery(BASE)
    assert found["issuer"] == "http://127.0.0.1:25080"
    assert found["jwks_uri"].startswith(BASE)
    token = refreshed(issuer, refresh_token(keys, JANE))["id_token"]
    key = jwt.PyJWKSet.from_dict(issuer.jwks())[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(token, key, algorithms=["RS256"], audience=AUDIENCE, issuer=found["issuer"])
    assert {"exp", "nbf", "iat", "sub"} <= claims.keys()
    assert (claims["name"], claims["preferred_username"], claims["groups"]) == ("Jane Doe", "jdoe", ["wlcg"])


def test_refreshing(keys: Keys, tmp_path: Path) -> None:
    issuer = issuer_of(keys, tmp_path, id_token=7.0)
    first = refresh_token(keys, JANE)
    answer = refreshed(issuer, first)
    assert (answer["token_type"], answer["expires_in"], answer["refresh_token"]) == ("Bearer", 7, first)
    claims = jwt.decode(answer["id_token"], options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 7
    who = authenticate(f"Bearer {answer['id_token']}", "wlcg", keys=keys, vos=VOS)
    assert who is not None
    assert who.name == "Jane Doe"
    assert refreshed(issuer, first)["id_token"]


def test_rotated_tokens_work_once_also_after_a_restart(keys: Keys, tmp_path: Path) -> None:
    issuer = issuer_of(keys, tmp_path, rotate=True)
    first = refresh_token(keys, JANE)
    second = refreshed(issuer, first)["refresh_token"]
    assert second != first
    restarted = issuer_of(keys_of(tmp_path), tmp_path, rotate=True)
    with pytest.raises(GrantError) as refused:
        refreshed(restarted, first)
    assert (refused.value.error, refused.value.status) == ("invalid_grant", 400)
    assert refreshed(restarted, second)["id_token"]


@pytest.mark.parametrize(
    ("changes", "error", "status"),
    [
        ({"refresh_token": "wrong"}, "invalid_grant", 400),
        ({"refresh_token": "EXPIRED"}, "invalid_grant", 400),
        ({"refresh_token": "ID_TOKEN"}, "invalid_grant", 400),
        ({"refresh_token": "FOREIGN"}, "invalid_grant", 400),
        ({"refresh_token": ""}, "invalid_request", 400),
        ({"client_id": "other"}, "invalid_client", 401),
        ({"client_secret": "other"}, "invalid_client", 401),
        ({"grant_type": "password"}, "unsupported_grant_type", 400),
        ({"grant_type": DEVICE_GRANT}, "invalid_request", 400),
        ({"grant_type": DEVICE_GRANT, "device_code": "nosuch"}, "invalid_grant", 400),
    ],
)
def test_refused(
    keys: Keys,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    changes: dict[str, str],
    error: str,
    status: int,
) -> None:
    issuer = issuer_of(keys, tmp_path)
    other = tmp_path_factory.mktemp("other")
    tokens = {
        "EXPIRED": refresh_token(keys, JANE, lifetime=-1),
        "ID_TOKEN": refreshed(issuer, refresh_token(keys, JANE))["id_token"],
        "FOREIGN": refresh_token(with_issuer(other, keys_of(other), "http://127.0.0.1:25080"), JANE),
    }
    form = {**CLIENT, "grant_type": "refresh_token", "refresh_token": refresh_token(keys, JANE), **changes}
    form["refresh_token"] = tokens.get(form["refresh_token"], form["refresh_token"])
    with pytest.raises(GrantError) as refused:
        issuer.grant(form)
    assert (refused.value.error, refused.value.status) == (error, status)


def test_a_device_code_needs_its_approval(keys: Keys, tmp_path: Path) -> None:
    issuer = issuer_of(keys, tmp_path)
    offered = issuer.device_code(CLIENT, BASE)
    assert {"device_code", "user_code", "verification_uri_complete", "expires_in", "interval"} <= offered.keys()
    form = {**CLIENT, "grant_type": DEVICE_GRANT, "device_code": offered["device_code"]}
    for _ in range(2):
        with pytest.raises(GrantError) as waiting:
            issuer.grant(form)
        assert waiting.value.error == "authorization_pending"
    assert issue.main(["--data", str(tmp_path), "--approve", offered["user_code"].lower()]) == 0
    claims = jwt.decode(issuer.grant(form)["id_token"], options={"verify_signature": False})
    assert claims["groups"] == list(user_of("Grid User", VOS).groups)
    with pytest.raises(GrantError) as spent:
        issuer.grant(form)
    assert spent.value.error == "invalid_grant"


def test_only_the_newest_device_codes_are_kept(keys: Keys, tmp_path: Path) -> None:
    issuer = issuer_of(keys, tmp_path)
    first = issuer.device_code(CLIENT, BASE)["device_code"]
    for _ in range(200):
        issuer.device_code(CLIENT, BASE)
    with pytest.raises(GrantError) as gone:
        issuer.grant({**CLIENT, "grant_type": DEVICE_GRANT, "device_code": first})
    assert gone.value.error == "invalid_grant"


@pytest.mark.parametrize("code", ["", "BCDF", "BCDF-GHJ", "../BC-DFGH", "BCDF-GHJ/", "bcdf-ghjk"])
def test_what_is_no_user_code(tmp_path: Path, code: str) -> None:
    with pytest.raises(ValueError, match="eight letters"):
        approval_file(tmp_path, code)


def test_the_command_issues_tokens(keys: Keys, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine"
    arguments = ["--data", str(tmp_path), "--name", "Jane Doe", "--group", "wlcg", "--lifetime", "5"]
    assert issue.main([*arguments, "--out", str(out)]) == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    claims = jwt.decode(out.read_text(), options={"verify_signature": False})
    assert (claims["name"], claims["groups"], claims["exp"] - claims["iat"]) == ("Jane Doe", ["wlcg"], 5)
    assert issue.main([*arguments, "--refresh"]) == 0
    printed = capsys.readouterr().out.strip()
    assert (
        jwt.decode(refreshed(issuer_of(keys, tmp_path), printed)["id_token"], options={"verify_signature": False})[
            "name"
        ]
        == "Jane Doe"
    )


def test_the_command_wants_a_grid_that_has_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert issue.main(["--data", str(tmp_path / "nosuch")]) == 1
    keys_of(tmp_path)
    assert issue.main(["--data", str(tmp_path)]) == 1
    assert "start it once" in capsys.readouterr().err
