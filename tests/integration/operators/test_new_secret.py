"""A new instance secret while grid tasks of the old one run: what docs/security.md says of it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_panda.exceptions import MissingResultsError
from airflow_provider_panda.operators.function import PandaFunctionOperator
from airflow_provider_panda.triggers.connections import connections_in_use
from airflow_provider_panda.triggers.function import PandaFunctionTrigger
from tests.unit.operators.scene import Store, TaskInstance

NEW = "another secret of the operators' tests"


def ends_when_told(path: str) -> str:
    import pathlib
    import time

    end = time.monotonic() + 100
    while not pathlib.Path(path).exists() and time.monotonic() < end:
        time.sleep(0.05)
    return "of any secret"


class Try:
    """One try of a task instance."""

    def __init__(self, go: Path) -> None:
        self.context: Any = {"ti": TaskInstance(), "task_state_store": Store()}
        self.operator = PandaFunctionOperator(
            task_id="t", python_callable=ends_when_told, op_args=[str(go)], environment={"python": sys.executable}
        )
        with pytest.raises(TaskDeferred) as deferred:
            self.operator.execute(self.context)
        _, self._kwargs = deferred.value.trigger.serialize()

    @property
    def key(self) -> str:
        return str(self._kwargs["task_key"])

    async def wait(self) -> dict[str, Any]:
        """Wait as a triggerer does that begins now, and return the event."""
        trigger = PandaFunctionTrigger(**{**json.loads(json.dumps(self._kwargs)), "not_before": None})
        event: dict[str, Any] = json.loads(json.dumps((await anext(trigger.run())).payload))
        return event

    def value(self, event: dict[str, Any]) -> Any:
        """Return what a worker makes of an event."""
        return self.operator.execute_complete(self.context, event)


async def test_whoever_waits_keeps_the_old_secret_and_what_is_submitted_has_the_new_one(
    connections: Callable[[str], None], tmp_path: Path
) -> None:
    """In one triggerer, which looks a connection up once in minutes."""
    go = tmp_path / "go"
    old, restarted = Try(go), Try(go)
    going_on = asyncio.create_task(old.wait())
    while not connections_in_use():
        await asyncio.sleep(0.05)
    connections(NEW)
    new = Try(go)
    of_new = asyncio.create_task(new.wait())
    while [shared.panda.instance_secret for shared in connections_in_use()] != [NEW]:
        await asyncio.sleep(0.05)
    of_restarted = asyncio.create_task(restarted.wait())
    go.touch()

    assert old.value(await going_on) == "of any secret"
    assert new.value(await of_new) == "of any secret"
    with pytest.raises(MissingResultsError, match="the instance secret of connection panda_default is not the one"):
        restarted.value(await of_restarted)
