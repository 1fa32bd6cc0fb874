"""Functions on the embedded grid whose results come by a broker of a test's own, and triggers that wait."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest

from airflow_provider_panda.grid.names import processing_type, secret_name, task_name
from airflow_provider_panda.grid.outcome import CallPolicy
from airflow_provider_panda.grid.task import Resources, TaskSpec, instance_id, task_key
from airflow_provider_panda.hooks.panda import PandaHook
from airflow_provider_panda.hooks.stomp import StompHook
from airflow_provider_panda.payload.command import Environment, job_command
from airflow_provider_panda.payload.delivery import user_secret
from airflow_provider_panda.payload.package import build_archive
from airflow_provider_panda.triggers.event import FunctionEvent, Outcome
from airflow_provider_panda.triggers.function import PandaFunctionTrigger
from demo.grid import Grid
from tests.stack.activemq import ActiveMQ

HEARTBEAT: Final = 4.0
"""Seconds: tests that use the whole machine run meanwhile, and hold a process up for a second or two."""


def when_told(path: str, value: str) -> str:
    import pathlib
    import time

    end = time.monotonic() + 280
    while not pathlib.Path(path).exists():
        assert time.monotonic() < end
        time.sleep(0.1)
    return value


class Calls:
    """Connections to a grid and a broker under one name, and functions that end when the test says so.

    :param name: part of the ids of both connections; an Airflow instance of its own is behind it.
    """

    def __init__(self, name: str, grid: Grid, broker: ActiveMQ, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.conn_id, self.folder, self.secret = f"panda_{name}", folder / name, f"instance secret of {name}"
        self.folder.mkdir()
        stomp = broker.connection(heartbeat=HEARTBEAT)
        panda = {
            "conn_type": "panda",
            "host": grid.url,
            "password": grid.token(),
            "extra": {
                "auth": "token", "vo": "wlcg", "broker_conn_id": f"broker_{name}", "instance_secret": self.secret,
            },
        }  # fmt: skip
        monkeypatch.setenv(f"AIRFLOW_CONN_BROKER_{name.upper()}", json.dumps(stomp))
        monkeypatch.setenv(f"AIRFLOW_CONN_PANDA_{name.upper()}", json.dumps(panda))
        self.endpoint = StompHook(f"broker_{name}").get_conn()
        self.instance = instance_id(self.secret)
        self.grid_url, self._logs = grid.url, grid.folder / "data"
        self.panda = PandaHook(self.conn_id).grid()
        self.panda.set_secret(secret_name(self.instance), user_secret(self.secret, self.endpoint))

    def submit(self, value: str, function: Callable[..., Any] = when_told) -> PandaFunctionTrigger:
        """Submit a call that returns ``value`` after :meth:`end` of it, and return its trigger."""
        archive = build_archive(function, args=[str(self.folder / value), value])
        key = task_key(self.instance, str(uuid4()))
        self.panda.upload(archive.name, archive.content)
        command = job_command(
            archive=archive, cache_url=self.grid_url, task_key=key, environment=Environment(python=sys.executable),
            secret_name=secret_name(self.instance), result_store=None,
        )  # fmt: skip
        spec = TaskSpec(
            key=key, name=task_name("faults", "f", "run", key), n_jobs=1, command=command, archive_name=archive.name,
            resources=Resources(max_attempt=1), processing_type=processing_type(self.instance),
        )  # fmt: skip
        return PandaFunctionTrigger(
            panda_conn_id=self.conn_id, task_key=key, task_id=self.panda.submit(spec), task_name=spec.name,
            processing_type=spec.processing_type, policy=CallPolicy(n_jobs=1, max_attempt=1),
        )  # fmt: skip

    def log(self, trigger: PandaFunctionTrigger) -> str:
        """Return what the jobs of a call wrote to stderr."""
        files = self._logs.rglob(f"{trigger.awaited.task_id}/*/payload.stderr")
        return "".join(file.read_text(errors="replace") for file in files)

    def end(self, value: str) -> None:
        """Let the call end that returns ``value``."""
        (self.folder / value).touch()


async def value_of(trigger: PandaFunctionTrigger) -> Any:
    """Wait with a trigger, and return the one value that it fires with."""
    fired = await anext(trigger.run())
    event = FunctionEvent.from_json(json.loads(json.dumps(fired.payload)))
    assert event.outcome is Outcome.COMPLETE, event
    assert event.results is not None
    return event.results[0]["payload"]
