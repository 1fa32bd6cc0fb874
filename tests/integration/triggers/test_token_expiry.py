"""A token that expires while a task waits is replaced without losing it: by file, by connection, by refresh token."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from airflow_provider_panda import configuration
from airflow_provider_panda.grid.names import processing_type, secret_name, task_name
from airflow_provider_panda.grid.outcome import CallPolicy
from airflow_provider_panda.grid.task import Resources, TaskSpec, instance_id, task_key
from airflow_provider_panda.hooks.panda import PandaHook
from airflow_provider_panda.local.auth import keys_of
from airflow_provider_panda.local.issuer import id_token, refresh_token, user_of
from airflow_provider_panda.payload.command import Environment, job_command
from airflow_provider_panda.payload.delivery import user_secret
from airflow_provider_panda.payload.package import build_archive
from airflow_provider_panda.triggers import connections
from airflow_provider_panda.triggers.event import FunctionEvent, Outcome
from airflow_provider_panda.triggers.function import PandaFunctionTrigger
from demo.grid import Grid

SECRET = "secret of the expiry tests"
INSTANCE = instance_id(SECRET)
LIFE = 4.0
"""Seconds of a token; whole seconds count in it."""

OVER = ("expired at", "does not accept the credentials")
"""Told of a token's end by who notices it first: the triggerer or, where its look was under way, PanDA."""

GUARD = 120


def waits_for(path: str) -> str:
    import pathlib
    import time

    end = time.monotonic() + 100
    while not pathlib.Path(path).exists():
        assert time.monotonic() < end
        time.sleep(0.1)
    return "it was worth waiting"


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    options = ["--slots", "2", "--no-broker", "--rotate-refresh-tokens", "--id-token-lifetime", str(LIFE)]
    grid = Grid(tmp_path_factory.mktemp("grid"), options)
    yield grid
    grid.stop()


@dataclass
class Waiting:
    """A grid whose one task ends when the test says so, and the connection by which it is waited for.

    The connection names no broker: all that a trigger learns, it learns by calls with its token.
    """

    grid: Grid
    go: Path
    monkeypatch: pytest.MonkeyPatch
    log: pytest.LogCaptureFixture
    task_id: int = 0

    def token(self, lifetime: float) -> str:
        """Return an id token of the grid."""
        return id_token(keys_of(self.grid.folder / "data"), user_of("Grid User", ("wlcg",)), lifetime=lifetime)

    def refresh_token(self) -> str:
        """Return a refresh token of the grid."""
        return refresh_token(keys_of(self.grid.folder / "data"), user_of("Grid User", ("wlcg",)))

    def connect(self, *, password: str | None = None, **extra: Any) -> None:
        """Make or change the connection."""
        fields = {"vo": "wlcg", "instance_secret": SECRET, **extra}
        self.monkeypatch.setenv(
            "AIRFLOW_CONN_EXPIRING",
            json.dumps({"conn_type": "panda", "host": self.grid.url, "password": password, "extra": fields}),
        )

    def submit(self) -> PandaFunctionTrigger:
        """Submit the task and return its trigger."""
        panda = PandaHook("expiring").grid()
        panda.set_secret(secret_name(INSTANCE), user_secret(SECRET, None))
        archive = build_archive(waits_for, args=[str(self.go)])
        key = task_key(INSTANCE, str(uuid4()))
        panda.upload(archive.name, archive.content)
        command = job_command(
            archive=archive,
            cache_url=self.grid.url,
            task_key=key,
            environment=Environment(python=sys.executable),
            secret_name=secret_name(INSTANCE),
            result_store=None,
        )
        spec = TaskSpec(
            key=key,
            name=task_name("expiry", "waits_for", "run", key),
            n_jobs=1,
            command=command,
            archive_name=archive.name,
            resources=Resources(max_attempt=1),
            processing_type=processing_type(INSTANCE),
        )
        self.task_id = panda.submit(spec)
        return PandaFunctionTrigger(
            panda_conn_id="expiring",
            task_key=key,
            task_id=self.task_id,
            task_name=spec.name,
            processing_type=spec.processing_type,
            policy=CallPolicy(n_jobs=1, max_attempt=1),
        )

    async def until_logged(self, *texts: str) -> None:
        """Wait for a log line with one of some texts."""
        async with asyncio.timeout(GUARD):
            while not any(text in self.log.text for text in texts):
                await asyncio.sleep(0.1)

    async def event_of(self, waiting: asyncio.Task[Any]) -> FunctionEvent:
        """Let the task end, and return what the trigger fires."""
        assert not waiting.done()
        self.go.touch()
        async with asyncio.timeout(GUARD):
            event = await waiting
        return FunctionEvent.from_json(json.loads(json.dumps(event.payload)))


@pytest.fixture
def case(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[Waiting]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(configuration, "poll_interval", lambda: 1.0)
    monkeypatch.setattr(connections, "REREAD_AFTER", 1.0)
    caplog.set_level(logging.INFO)
    case = Waiting(grid, tmp_path / "go", monkeypatch, caplog)
    yield case
    case.go.touch()


def waiting_for(trigger: PandaFunctionTrigger) -> asyncio.Task[Any]:
    async def first() -> Any:
        return await anext(trigger.run())

    return asyncio.create_task(first())


def check(event: FunctionEvent, case: Waiting, *tokens: str) -> None:
    assert event.outcome is Outcome.COMPLETE
    assert event.results is not None
    assert "it was worth waiting" in json.dumps(event.to_json())
    for token in tokens:
        assert token not in case.log.text


async def test_the_file_is_replaced(case: Waiting, tmp_path: Path) -> None:
    file = tmp_path / "token"
    tokens = [case.token(600), case.token(LIFE), case.token(600.5)]
    file.write_text(tokens[0])
    case.connect(auth="token_file", token_file=str(file))
    trigger = await asyncio.to_thread(case.submit)
    file.write_text(tokens[1])
    waiting = waiting_for(trigger)
    await case.until_logged(*OVER)
    file.write_text(tokens[2])
    await case.until_logged("work again")
    check(await case.event_of(waiting), case, *tokens)


async def test_the_connection_is_changed(case: Waiting) -> None:
    tokens = [case.token(600), case.token(LIFE), case.token(600.5)]
    case.connect(password=tokens[0])
    trigger = await asyncio.to_thread(case.submit)
    case.connect(password=tokens[1])
    waiting = waiting_for(trigger)
    await case.until_logged(*OVER)
    assert connections.FRESH_FOR > GUARD  # it is not the usual look-up that helps
    case.connect(password=tokens[2])
    await case.until_logged("work again")
    check(await case.event_of(waiting), case, *tokens)


@pytest.mark.parametrize("kept", ["connection", "panda-client's file"])
async def test_it_is_renewed_by_a_refresh_token(case: Waiting, tmp_path: Path, kept: str) -> None:
    token = case.refresh_token()
    if kept == "connection":
        case.connect(auth="refresh", refresh_token=token)
    else:
        file = tmp_path / ".token"
        file.write_text(json.dumps({"id_token": case.token(LIFE), "refresh_token": token}))
        case.connect(auth="token_file", token_file=str(file))
    trigger = await asyncio.to_thread(case.submit)
    waiting = waiting_for(trigger)
    end = time.monotonic() + 3 * LIFE
    await case.until_logged("Renewed the token")
    await asyncio.sleep(max(0.0, end - time.monotonic()))  # three lives of a token
    check(await case.event_of(waiting), case, token)
    assert case.log.text.count("Renewed the token") >= 3
    assert "fail" not in case.log.text
    assert "could not be" not in case.log.text


async def test_a_kill_with_a_renewed_token(case: Waiting) -> None:
    case.connect(auth="refresh", refresh_token=case.refresh_token())
    trigger = await asyncio.to_thread(case.submit)
    shared = await connections.shared_connection("expiring")
    await asyncio.sleep(LIFE + 1)
    await shared.client.kill(case.task_id)
    waiting = waiting_for(trigger)
    async with asyncio.timeout(GUARD):
        event = FunctionEvent.from_json((await waiting).payload)
    assert (event.outcome, event.status) == (Outcome.ENDED, "aborted")
