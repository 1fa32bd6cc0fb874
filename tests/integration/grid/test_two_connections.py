"""Two PanDA connections with different tokens and hosts, used by many threads of one process, never cross."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest

from airflow_provider_panda.grid.panda import PandaGrid
from airflow_provider_panda.hooks.panda import PandaHook
from airflow_provider_panda.local.auth import keys_of
from airflow_provider_panda.local.issuer import refresh_token, user_of
from demo.grid import Grid
from tests.stack.scripted_panda import ScriptedPanda, envelope, scripted_panda

THREADS = 8
CALLS = 1000
NAMES = ("red", "blue")


@pytest.fixture(scope="module")
def grids(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Grid]]:
    folder = tmp_path_factory.mktemp("grids")
    running: dict[str, Grid] = {}
    try:
        for name in NAMES:
            running[name] = Grid(folder / name, ["--slots", "0", "--no-broker", "--rotate-refresh-tokens"])
        yield running
    finally:
        for grid in running.values():
            grid.stop()


def used_by_threads(monkeypatch: pytest.MonkeyPatch, fields: dict[str, dict[str, object]]) -> list[str]:
    """Make 1,000 calls by eight threads, each by turns with both connections; return what did not belong there."""
    for name, given in fields.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps({"conn_type": "panda", **given}))
    turns = count()

    def call(number: int) -> str | None:
        name = NAMES[next(turns) % 2]
        grid: PandaGrid = PandaHook(name).grid()
        match number % 3:
            case 0:
                seen = grid.secrets().get("WHOSE")
            case 1:
                found = grid.statuses("airflow-none")
                seen = name if found == [] else str(found)
            case _:
                seen = grid.endpoint.vo and grid.secrets().get("WHOSE")
        return None if seen == name else f"{name} got {seen}"

    with ThreadPoolExecutor(THREADS) as pool:
        return [wrong for wrong in pool.map(call, range(CALLS)) if wrong]


@pytest.mark.parametrize("auth", ["token", "refresh"])
def test_two_grids(grids: dict[str, Grid], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, auth: str) -> None:
    """Each grid signs its own tokens, so that one of the other's would be refused; each keeps another secret."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fields: dict[str, dict[str, object]] = {}
    for name, grid in grids.items():
        if auth == "token":
            fields[name] = {"host": grid.url, "password": grid.token(), "extra": {"vo": "wlcg"}}
        else:
            token = refresh_token(keys_of(grid.folder / "data"), user_of("Grid User", ("wlcg",)))
            fields[name] = {"host": grid.url, "extra": {"vo": "wlcg", "auth": "refresh", "refresh_token": token}}
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps({"conn_type": "panda", **fields[name]}))
        PandaHook(name).grid().set_secret("WHOSE", name)
    assert used_by_threads(monkeypatch, fields) == []


def test_what_two_servers_see(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted_panda() as red, scripted_panda() as blue:
        servers: dict[str, ScriptedPanda] = {"red": red, "blue": blue}
        for name, server in servers.items():
            server.on("creds/get_user_secrets", envelope(json.dumps({"WHOSE": name})))
            server.on("task/get_tasks_detailed_info_since", envelope([]))
        fields: dict[str, dict[str, object]] = {
            name: {"host": server.url, "password": f"token-of-{name}", "extra": {"vo": f"vo-of-{name}"}}
            for name, server in servers.items()
        }
        assert used_by_threads(monkeypatch, fields) == []
        for name, server in servers.items():
            shown = {(seen.headers.get("Authorization"), seen.headers.get("Origin")) for seen in server.seen}
            assert shown == {(f"Bearer token-of-{name}", f"vo-of-{name}")}
            assert {seen.headers["Host"] for seen in server.seen} == {server.url.removeprefix("http://")}
        assert len(red.seen) + len(blue.seen) == CALLS
