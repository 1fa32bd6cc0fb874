"""What a payload finds in its environment, as a pilot sets it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_panda.local.payload import payload_environment


def environment_of(scratch: Path) -> dict[str, str]:
    job: Any = SimpleNamespace(panda_id=7, task_id=3, attempt=1, queue="Q")
    return payload_environment(job, scratch, "http://127.0.0.1:25080")


def test_servers_are_named_as_idds_wrapper_expects_them(tmp_path: Path) -> None:
    environment = environment_of(tmp_path)
    assert environment["PANDA_SERVER_URL"] == "http://127.0.0.1:25080"
    assert environment["PANDACACHE_URL"] == "http://127.0.0.1:25080/server/panda"


def test_a_proxy_is_passed_on_and_nothing_of_the_grids_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("X509_USER_PROXY", raising=False)
    assert "X509_USER_PROXY" not in environment_of(tmp_path)
    monkeypatch.setenv("X509_USER_PROXY", "/tmp/proxy")
    monkeypatch.setenv("PANDA_GRID_BROKER_PASSCODE", "secret")
    environment = environment_of(tmp_path)
    assert environment["X509_USER_PROXY"] == "/tmp/proxy"
    assert "secret" not in environment.values()
