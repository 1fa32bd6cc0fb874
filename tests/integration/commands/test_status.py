"""``airflow panda status --probe`` beside a process that waits, and hangs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_panda import configuration
from airflow_provider_panda.commands.status import status
from airflow_provider_panda.triggers import reports

WAITS = """
import asyncio
from airflow_provider_panda.triggers import health
from tests.unit.triggers.scripted import Idds, Panda, shared

health.Reporter.__init__.__kwdefaults__["every"] = 0.5

async def wait():
    with health.waiting_with(shared(Idds(), Panda())):
        await asyncio.sleep(120)

asyncio.run(wait())
"""
PATIENCE = 60.0


def probed(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """Return exit code and JSON of the command."""
    with pytest.raises(SystemExit) as ended:
        status(Namespace(conn_id=None, probe=True, output="json"))
    assert isinstance(ended.value.code, int)
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return ended.value.code, told


def test_a_process_that_hangs_is_told_and_one_that_is_gone_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "client")  # the command changes it
    monkeypatch.setattr(configuration, "home", lambda: tmp_path)
    assert probed(capsys)[0] == 0, "nobody waits"
    process = subprocess.Popen([sys.executable, "-c", WAITS], env={**os.environ, "AIRFLOW_HOME": str(tmp_path)})
    try:
        folder, end = reports.folder_of(tmp_path), time.monotonic() + PATIENCE
        while not list(folder.glob("*.json")):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        code, told = probed(capsys)
        assert (code, told["processes"][0]["pid"]) == (0, process.pid)
        process.send_signal(signal.SIGSTOP)
        while code == 0:
            assert time.monotonic() < end
            time.sleep(0.1)
            code, told = probed(capsys)
        (step,) = told["steps"]
        assert step["verdict"] == "wrong"
        assert f"process {process.pid}" in step["step"]
        assert "it hangs" in step["text"]
        process.send_signal(signal.SIGCONT)
        while code == 1:
            assert time.monotonic() < end
            time.sleep(0.1)
            code, told = probed(capsys)
        assert told["processes"]
    finally:
        process.kill()
        process.wait()
    assert probed(capsys)[1]["processes"] == []
    assert list(folder.iterdir()) == []
