"""The embedded grid as an OpenID Connect issuer: its documents, its tokens, and the unmodified panda-client."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from airflow_provider_panda.local.auth import AUDIENCE, issue_token, keys_of
from airflow_provider_panda.local.issuer import CLIENT_SECRET, Person, refresh_token

from .conftest import RunningGrid

CLIENT = {"client_id": AUDIENCE, "client_secret": CLIENT_SECRET}
ASKS = "from pandaclient import Client; import json; print(json.dumps(Client.getPandaIDsWithTaskID(987654)))"
"""Needs credentials, and answers 0 when they are good."""


def client_environment(grid: RunningGrid, config: Path) -> dict[str, str]:
    """What panda-client has when no token is in its environment."""
    environment = {name: value for name, value in grid.environment.items() if name != "PANDA_AUTH_ID_TOKEN"}
    return {**environment, "PANDA_CONFIG_ROOT": str(config), "PYTHONUNBUFFERED": "1"}


def claims_of(token: str) -> dict[str, Any]:
    return dict(jwt.decode(token, options={"verify_signature": False}))


def test_a_token_is_verified_by_what_is_published(grid: RunningGrid) -> None:
    config = httpx.get(f"{grid.url}/auth/wlcg_auth_config.json").json()
    found = httpx.get(config["oidc_config_url"]).json()
    keys = httpx.get(found["jwks_uri"]).json()
    assert [set(key) for key in keys["keys"]] == [{"kty", "n", "e", "kid", "use", "alg"}]
    key = jwt.PyJWKSet.from_dict(keys)[jwt.get_unverified_header(grid.token)["kid"]]
    claims = jwt.decode(grid.token, key, algorithms=["RS256"], audience=config["audience"], issuer=found["issuer"])
    assert claims["name"] == "Grid User"
    assert grid.ready["issuer"] == grid.url == found["issuer"]


@pytest.mark.parametrize(
    ("name", "status"), [("wlcg", 200), ("wlcg.production", 200), ("nosuchvo", 404), ("wlcg.nosuch", 404)]
)
def test_auth_config_files(grid: RunningGrid, name: str, status: int) -> None:
    assert httpx.get(f"{grid.url}/auth/{name}_auth_config.json").status_code == status


def test_the_refresh_token_beside_the_token(grid: RunningGrid) -> None:
    path = Path(grid.ready["refresh_token_file"])
    assert (path, stat.S_IMODE(path.stat().st_mode)) == (grid.data / "refresh_token", 0o600)
    form = {**CLIENT, "grant_type": "refresh_token", "refresh_token": path.read_text()}
    answer = httpx.post(f"{grid.url}/oidc/token", data=form)
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    assert answer.headers["content-type"] == "application/json"
    headers = {**grid.headers, "Authorization": f"Bearer {answer.json()['id_token']}"}
    seen = httpx.get(f"{grid.url}/api/v1/system/get_user_attributes", headers=headers).json()
    assert seen["success"], seen
    refused = httpx.post(f"{grid.url}/oidc/token", data={**form, "refresh_token": grid.token})
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
    refused = httpx.post(f"{grid.url}/oidc/token", data={**form, "refresh_token": "x" * 100_000})
    assert refused.status_code == 413
    assert httpx.get(f"{grid.url}/oidc/token").status_code == 405


def test_a_refresh_token_is_no_id_token(grid: RunningGrid) -> None:
    token = (grid.data / "refresh_token").read_text()
    answer = httpx.get(
        f"{grid.url}/api/v1/system/is_alive", headers={"Authorization": f"Bearer {token}", "Origin": "wlcg"}
    )
    assert answer.status_code == 403
    assert "Token authentication failed. Invalid token." in answer.text


def test_panda_client_refreshes(grid: RunningGrid, tmp_path: Path) -> None:
    keys = keys_of(grid.data)
    jane = Person(name="Jane Doe", nickname="jdoe", groups=("wlcg",))
    old = issue_token(keys, name="Jane Doe", nickname="jdoe", groups=["wlcg"], lifetime=-60)
    held = {"id_token": old, "refresh_token": refresh_token(keys, jane)}
    (tmp_path / ".token").write_text(json.dumps(held))
    done = subprocess.run(
        [sys.executable, "-c", ASKS], env=client_environment(grid, tmp_path), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])[0] == 0, done.stdout
    fresh = json.loads((tmp_path / ".token").read_text())
    assert fresh["refresh_token"] == held["refresh_token"]
    assert claims_of(fresh["id_token"])["name"] == "Jane Doe"
    assert claims_of(fresh["id_token"])["exp"] - claims_of(fresh["id_token"])["iat"] == 3600


def test_panda_client_waits_until_the_owner_approves(grid: RunningGrid, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ASKS],
        env=client_environment(grid, tmp_path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write("y\n")
        client.stdin.flush()
        shown = ""
        while "user_code=" not in shown:
            shown = client.stdout.readline()
            assert shown, "panda-client ended without showing a code"
        address = re.search(r"http\S+", shown)
        assert address
        page = httpx.get(address[0])
        assert "--approve" in page.text
        code = address[0].rpartition("=")[2]
        subprocess.run(
            [sys.executable, "-m", "airflow_provider_panda.local.issue", "--data", str(grid.data), "--approve", code],
            check=True,
            timeout=60,
        )
        output, _ = client.communicate(timeout=60)
    assert client.returncode == 0, output
    assert json.loads(output.splitlines()[-1])[0] == 0, output
    assert claims_of(json.loads((tmp_path / ".token").read_text())["id_token"])["name"] == "Grid User"


def test_tokens_outlive_a_change_of_port(start: Callable[..., RunningGrid]) -> None:
    grid = start("--slots", "0")
    before, token = grid.url, grid.token
    refresh = (grid.data / "refresh_token").read_text()
    assert grid.stop() == 0
    again = start("--slots", "0")
    assert again.url != before
    headers = {**again.headers, "Authorization": f"Bearer {token}"}
    assert httpx.get(f"{again.url}/api/v1/creds/get_user_secrets", headers=headers).status_code == 200
    form = {**CLIENT, "grant_type": "refresh_token", "refresh_token": refresh}
    answer = httpx.post(f"{again.url}/oidc/token", data=form)
    assert claims_of(answer.json()["id_token"])["iss"] == again.url


def test_lifetimes_and_rotation_are_options(start: Callable[..., RunningGrid]) -> None:
    grid = start(
        "--slots", "0", "--rotate-refresh-tokens", "--id-token-lifetime", "5", "--issuer", "https://idp.example/x"
    )
    form = {**CLIENT, "grant_type": "refresh_token", "refresh_token": (grid.data / "refresh_token").read_text()}
    answer = httpx.post(f"{grid.url}/oidc/token", data=form).json()
    claims = claims_of(answer["id_token"])
    assert (claims["exp"] - claims["iat"], claims["iss"]) == (5, "https://idp.example/x")
    assert httpx.post(f"{grid.url}/oidc/token", data=form).status_code == 400
    again = httpx.post(f"{grid.url}/oidc/token", data={**form, "refresh_token": answer["refresh_token"]})
    assert again.status_code == 200


def test_the_command_writes_a_private_file(grid: RunningGrid, tmp_path: Path) -> None:
    out = tmp_path / "short"
    command = [sys.executable, "-m", "airflow_provider_panda.local.issue", "--data", str(grid.data)]
    done = subprocess.run(
        [*command, "--lifetime", "-1", "--out", str(out)], capture_output=True, text=True, timeout=60, env=os.environ
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    answer = httpx.get(
        f"{grid.url}/api/v1/system/is_alive", headers={"Authorization": f"Bearer {out.read_text()}", "Origin": "wlcg"}
    )
    assert answer.text == "ERROR : Token authentication failed. Invalid token. Signature has expired"
