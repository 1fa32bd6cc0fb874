"""Who gets in: every route of the embedded grid without its token, and where it listens."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import psutil
import pytest

from airflow_provider_panda.local import service
from airflow_provider_panda.local.api import ENDPOINTS

from .conftest import RunningGrid

OPEN = {("system", "is_alive")}
"""What the real server answers without credentials, too."""


@pytest.mark.parametrize(("module", "name"), sorted(ENDPOINTS))
@pytest.mark.parametrize("authorization", [None, "Bearer forged.forged.forged", "Basic dXNlcjpwYXNz"])
def test_no_call_without_the_token(grid: RunningGrid, module: str, name: str, authorization: str | None) -> None:
    method = ENDPOINTS[module, name].method or "GET"
    headers = {"Accept": "application/json", "Origin": "wlcg"} | (
        {"Authorization": authorization} if authorization else {}
    )
    answer = httpx.request(method, f"{grid.url}/api/v1/{module}/{name}", headers=headers, verify=False)
    if (module, name) in OPEN and authorization != "Bearer forged.forged.forged":
        assert answer.json()["success"] is True
    elif answer.status_code == 200:
        assert answer.json() == {"success": False, "message": "SSL secure connection is required", "data": None}
    else:
        assert answer.status_code == 403
        assert "Token authentication failed" in answer.text


@pytest.mark.parametrize("method", ["relay_idds_command", "execute_idds_workflow_command"])
def test_no_relay_without_the_token(grid: RunningGrid, method: str) -> None:
    answer = httpx.post(f"{grid.url}/server/panda/{method}", data={"command_name": "ping"})
    assert answer.json() == [False, "SSL secure connection is required"]


def test_it_listens_on_loopback_only(grid: RunningGrid) -> None:
    listening = [each.laddr for each in psutil.Process(grid.process.pid).net_connections() if each.status == "LISTEN"]
    assert len(listening) == 2  # HTTP and STOMP
    assert {each.ip for each in listening} == {"127.0.0.1"}


def test_the_cache_gives_nothing_but_its_files(grid: RunningGrid) -> None:
    for name in ("../keys.json", "..%2fkeys.json", "%2e%2e/token", "/etc/passwd", "%2fetc%2fpasswd", "nothing"):
        answer = httpx.get(f"{grid.url}/cache/{name}", verify=False)
        assert answer.status_code == 404, name


def test_it_prints_and_logs_no_secret(grid: RunningGrid) -> None:
    told = json.dumps(grid.ready) + Path(grid.log.name).read_text()
    files = [(grid.data / name).read_text().strip() for name in ("token", "refresh_token")]
    logins = json.loads((grid.data / "broker.json").read_text())
    for secret in (*files, logins["passcode"], logins["publisher_passcode"]):
        assert secret
        assert secret not in told


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("grid.example", False)],
)
def test_where_it_warns(host: str, loopback: bool) -> None:
    assert service._is_loopback(host) is loopback


def test_files_with_secrets_are_its_owners(grid: RunningGrid) -> None:
    for name in ("token", "refresh_token", "broker.json", "keys.json", "signing_key.pem"):
        assert (grid.data / name).stat().st_mode & 0o777 == 0o600, name
