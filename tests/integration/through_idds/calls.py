"""A function called through the real iDDS as Airflow does it: operator, trigger, operator, without its processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_panda.exceptions import GridError
from airflow_provider_panda.grid.idds.answers import RequestStatus
from airflow_provider_panda.grid.idds.runs import DagRun, IddsGrid
from airflow_provider_panda.grid.task import instance_id
from airflow_provider_panda.hooks.panda import PandaHook
from airflow_provider_panda.operators.function import PandaFunctionOperator
from airflow_provider_panda.triggers.event import FunctionEvent
from airflow_provider_panda.triggers.function import PandaFunctionTrigger
from tests.stack.stack import Access

SECRET = "secret of the iDDS tests"
DIRECT, RELAYED, DEAF = "idds_direct", "idds_relayed", "idds_deaf"
"""Connections: iDDS itself, the PanDA server's relay, and one whose broker nobody answers at."""


def connections(access: Access) -> dict[str, dict[str, Any]]:
    """Return the connections to a stack, as the environment has them."""
    broker = {
        "conn_type": "stomp",
        "host": f"{access.broker_host}:{access.broker_port}",
        "login": access.subscriber.name,
        "password": access.subscriber.passcode,
        "extra": {
            "publisher_login": access.publisher.name,
            "publisher_password": access.publisher.passcode,
            "result_destination": access.result_destination,
        },
    }
    extra = {"auth": "token", "vo": access.vo, "service": "idds", "queue": access.queue, "instance_secret": SECRET}

    def panda(**more: Any) -> dict[str, Any]:
        return {
            "conn_type": "panda",
            "host": access.panda_url,
            "password": access.token,
            "extra": {**extra, "broker_conn_id": "idds_broker", **more},
        }

    return {
        "idds_broker": broker,
        "idds_dead_broker": {**broker, "host": "127.0.0.1:1"},
        DIRECT: panda(idds_host=access.idds_url),
        RELAYED: panda(),
        DEAF: panda(idds_host=access.idds_url, broker_conn_id="idds_dead_broker"),
    }


def use(access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the connections to a stack into the environment."""
    for conn_id, fields in connections(access).items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))


@dataclass
class TaskInstance:
    """What operators use of a task instance."""

    run_id: str
    task_id: str = "work"
    dag_id: str = "idds_test"
    map_index: int = -1
    id: str = field(default_factory=lambda: str(uuid4()))
    xcoms: dict[str, Any] = field(default_factory=dict)

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = json.loads(json.dumps(value))

    def xcom_pull(self, task_ids: Any = None, key: str = "return_value", map_indexes: Any = None) -> Any:
        return self.xcoms.get(key)


class Store(dict[str, Any]):
    """The task state store."""

    def set(self, name: str, value: Any) -> None:
        self[name] = value

    def delete(self, name: str) -> None:
        self.pop(name, None)


made: list[Call] = []
"""The calls of a test, whose requests are closed after it: iDDS keeps looking at open ones."""


class Call:
    """One try of one task instance.

    :param stack: the services.
    :param function: what it calls.
    :param conn_id: by which connection.
    :param run_id: DAG run; a new one by default.
    :param generation: when the run was last started, as Unix time.
    :param store: the task state store; that of an earlier try, if there was one.
    :param options: of the operator.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        conn_id: str = DIRECT,
        run_id: str | None = None,
        task_id: str = "work",
        generation: int = 0,
        store: Store | None = None,
        **options: Any,
    ) -> None:
        self.ti = TaskInstance(run_id=run_id or f"manual__{uuid4()}", task_id=task_id)
        self.conn_id = conn_id
        self.generation = generation
        self.context: dict[str, Any] = {
            "ti": self.ti,
            "dag_run": SimpleNamespace(start_date=datetime.fromtimestamp(generation, UTC)),
            "task_state_store": Store() if store is None else store,
        }
        options.setdefault("environment", {"python": sys.executable})
        self.operator = PandaFunctionOperator(
            task_id=task_id, python_callable=function, panda_conn_id=conn_id, **options
        )
        self.event: FunctionEvent | None = None
        made.append(self)

    @property
    def run(self) -> DagRun:
        return DagRun(
            instance=instance_id(SECRET), dag_id=self.ti.dag_id, run_id=self.ti.run_id, generation=self.generation
        )

    @property
    def grid(self) -> IddsGrid:
        return PandaHook(self.conn_id).idds_grid()

    def submit(self) -> PandaFunctionTrigger:
        """Execute the operator up to its deferral and return the trigger as a triggerer makes it."""
        with pytest.raises(TaskDeferred) as deferred:
            self.operator.execute(self.context)
        _, kwargs = deferred.value.trigger.serialize()
        return PandaFunctionTrigger(**{**json.loads(json.dumps(kwargs)), "not_before": None})

    async def value(self, trigger: PandaFunctionTrigger | None = None) -> Any:
        """Return what the task returns, or raise what it raises."""
        if trigger is None:
            trigger = await asyncio.to_thread(self.submit)
        event = json.loads(json.dumps((await anext(trigger.run())).payload))
        self.event = FunctionEvent.from_json(event)
        return await asyncio.to_thread(self.operator.execute_complete, self.context, event)

    def request(self) -> RequestStatus:
        """Return the request of this task's run."""
        status = self.grid.client.request(self.ti.xcoms["idds_request_id"])
        assert status is not None
        return status

    def requests(self) -> list[RequestStatus]:
        """Return all requests of this task's run, also those that lost."""
        found = [self.grid.client.request(key) for key in self.grid.requests_of(self.run).values()]
        return [status for status in found if status is not None]


def close_requests() -> None:
    """Close the requests of all calls of a test, as far as iDDS can be asked."""
    runs = {call.run: call.grid for call in made}
    made.clear()
    for run, grid in runs.items():
        with contextlib.suppress(GridError):
            for request_id in grid.requests_of(run).values():
                grid.client.close_request(request_id)
