"""A function through an iDDS in memory, its worker killed at any call: one transform, whichever try waits for it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_panda.exceptions import TaskNotFoundError
from airflow_provider_panda.grid.answers import KillOutcome
from airflow_provider_panda.grid.idds.runs import IddsGrid
from airflow_provider_panda.hooks.panda import PandaHook
from airflow_provider_panda.operators.function import PandaFunctionOperator
from airflow_provider_panda.triggers.ids import CONNECTION_KEY, REQUEST_ID_KEY, TASK_KEY_KEY, TRANSFORM_ID_KEY
from tests.unit.grid.idds.memory import MemoryIdds, panda
from tests.unit.operators.scene import Store, TaskInstance

FORWARDED = (False, True)


class KilledError(BaseException):
    """The process is gone: nothing of the code that it ran goes on."""


def add(a: int) -> int:
    return a + 1


class Grid:
    """iDDS and the PanDA behind it, as one task instance's tries see them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.idds, self.store = MemoryIdds(), Store()
        self.states: dict[int, str] = {}
        self.kills: list[int] = []
        self.made: list[str] = []
        self.killed_at: tuple[int, bool] | None = None
        self.ti = TaskInstance()

        def status(task_id: int) -> Any:
            if task_id not in self.states:
                raise TaskNotFoundError("not yet")
            return SimpleNamespace(status=self.states[task_id])

        def kill(task_id: int) -> KillOutcome:
            self.kills.append(task_id)
            return KillOutcome.REGISTERED

        side = panda(status=self._call("status", status), upload=self._call("upload", lambda *_: None))
        side.kill = kill
        calls = ("add_request", "add_transform", "request", "request_ids", "close_request")
        client: Any = SimpleNamespace(**{name: self._call(name, getattr(self.idds, name)) for name in calls})
        grid = IddsGrid(client, side, secret="s", pause=lambda _: None, draw=lambda: 0.0)
        monkeypatch.setattr(PandaHook, "idds_grid", lambda _: grid)
        monkeypatch.setattr(PandaHook, "grid", lambda _: side)

    def _call(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.made.append(name)
            here = self.killed_at is not None and len(self.made) == self.killed_at[0]
            if here and self.killed_at is not None and not self.killed_at[1]:
                raise KilledError
            result = function(*args, **kwargs)
            if here:
                raise KilledError
            return result

        return call

    def execute(self, *, killed_at: tuple[int, bool] | None = None, a: int = 1) -> str | None:
        """Run the next try; return the name of its task if it deferred, None if it was killed."""
        self.killed_at, self.made, self.ti = killed_at, [], TaskInstance()
        store = SimpleNamespace(get=self._call("get", self.store.get), set=self._call("set", self.store.set))
        push = self.ti.xcom_push
        self.ti.xcom_push = self._call("xcom", push)  # type: ignore[method-assign]
        context: Any = {
            "ti": self.ti,
            "task_state_store": store,
            "dag_run": SimpleNamespace(start_date=datetime.fromtimestamp(1_000_000, UTC)),
        }
        operator = PandaFunctionOperator(task_id="t", python_callable=add, op_args=[a], panda_conn_id="c")
        try:
            operator.execute(context)
        except KilledError:
            return None
        except TaskDeferred as deferred:
            name: str = deferred.trigger.serialize()[1]["task_name"]
            return name
        raise AssertionError("it neither deferred nor was killed")

    @property
    def transforms(self) -> list[Any]:
        return [transform for request in self.idds.requests.values() for transform in request.transforms]


@pytest.fixture
def grid(monkeypatch: pytest.MonkeyPatch) -> Grid:
    extra = {"service": "idds", "auth": "none", "vo": "wlcg", "instance_secret": "s"}
    connection = {"conn_type": "panda", "host": "http://127.0.0.1:1", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_C", json.dumps(connection))
    monkeypatch.setenv("AIRFLOW__PANDA__END_IN_TRIGGERER", "False")
    return Grid(monkeypatch)


CALLS = [
    "get", "set", "upload",
    "request_ids", "request_ids", "request_ids", "add_request",
    "request_ids", "request", "request_ids", "request",
    "xcom", "xcom", "request", "add_transform", "xcom", "xcom", "set",
]  # fmt: skip
"""Of a first try that is the first of its DAG run."""


def test_what_a_first_try_calls(grid: Grid) -> None:
    assert grid.execute() is not None
    assert grid.made == CALLS


@pytest.mark.parametrize(("number", "forwarded"), list(itertools.product(range(1, len(CALLS)), FORWARDED)))
def test_killed_at_any_call_there_is_one_transform_in_the_end(grid: Grid, number: int, forwarded: bool) -> None:
    """Also where iDDS has given it to PanDA meanwhile. (After its last call a try counts as one that deferred.)"""
    assert grid.execute(killed_at=(number, forwarded)) is None
    if grid.transforms:
        grid.idds.move(1, 101, status="Transforming", task_id=70)
        grid.states[70] = "running"
    name = grid.execute()
    (transform,) = grid.transforms
    assert name == f"{transform.name}_1_101"
    assert grid.ti.xcoms == {
        TASK_KEY_KEY: transform.internal_id, REQUEST_ID_KEY: 1, CONNECTION_KEY: "c", TRANSFORM_ID_KEY: 101,
        **({"panda_task_id": 70} if grid.states else {}),
    }  # fmt: skip
    assert grid.kills == []


def killed_after_its_submission(grid: Grid) -> None:
    assert grid.execute(killed_at=(CALLS.index("add_transform") + 1, True)) is None
    assert len(grid.transforms) == 1


@pytest.mark.parametrize(
    ("status", "state", "again"),
    [("Transforming", "aborted", True), ("Failed", None, True), ("Transforming", "done", False)],
)
def test_what_became_of_it_decides(grid: Grid, status: str, state: str | None, again: bool) -> None:
    killed_after_its_submission(grid)
    grid.idds.move(1, 101, status=status, task_id=70 if state else None)
    if state:
        grid.states[70] = state
    grid.execute()
    assert len(grid.transforms) == (2 if again else 1)


def test_edited_the_old_one_is_killed_at_panda(grid: Grid) -> None:
    killed_after_its_submission(grid)
    grid.idds.move(1, 101, status="Transforming", task_id=70)
    grid.states[70] = "running"
    assert grid.execute(a=2) is not None
    assert grid.kills == [70]
    assert len(grid.transforms) == 2


def test_it_is_found_in_a_request_of_an_earlier_start_of_the_run(grid: Grid) -> None:
    killed_after_its_submission(grid)
    grid.idds.move(1, status="Finished")  # takes no further works
    name = grid.execute()
    assert name is not None
    assert name.endswith("_1_101")
    assert len(grid.idds.requests) == 1
