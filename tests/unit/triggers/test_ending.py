"""Which values a trigger hands on itself, and how."""

from __future__ import annotations

import asyncio
import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.triggers.base import TaskSuccessEvent, TriggerEvent

from airflow_provider_panda.grid.outcome import CallPolicy
from airflow_provider_panda.payload import values
from airflow_provider_panda.payload.result import JobFailure
from airflow_provider_panda.payload.xcom import to_xcom
from airflow_provider_panda.triggers import ending
from airflow_provider_panda.triggers import function as module
from airflow_provider_panda.triggers.ending import is_plain, leave_return_value, plain_values
from airflow_provider_panda.triggers.event import FunctionEvent, Outcome
from airflow_provider_panda.triggers.function import PandaFunctionTrigger

KEY = "afabcdefghijklmnopqr"
TI = SimpleNamespace(dag_id="d", task_id="t", run_id="r", map_index=-1)
DONE = FunctionEvent(
    outcome=Outcome.COMPLETE, task_key=KEY, task_id=7, n_jobs=2, ended=False,
    results=[{"job": 1, "payload": "b"}, {"job": 0, "payload": {"a": [1, 2.5, None]}}],
)  # fmt: skip
FAILURE = JobFailure(job=0, attempt=1, type="E", message="m")


@pytest.mark.parametrize(
    "value",
    [None, True, 3, 1 << 900, 2.5, "text", [1, ["x"], {}], {"a": {"b": None}}],
)
def test_a_plain_value_is_what_a_worker_would_leave(value: Any) -> None:
    encoded = values.encode(value)
    assert is_plain(encoded)
    assert encoded == to_xcom(values.decode(encoded)) == value


@pytest.mark.parametrize(
    "value",
    [(1, 2), {1}, b"x", 1j, float("nan"), [float("inf")], {"a": (1,)}, {1: "a"}, {"__classname__": "x"}, 1 << 2000],
)
def test_a_value_that_json_lacks_needs_a_worker(value: Any) -> None:
    assert not is_plain(values.encode(value))


def test_values_are_in_the_order_of_the_jobs() -> None:
    assert plain_values(DONE) == [{"a": [1, 2.5, None]}, "b"]


@pytest.mark.parametrize(
    "change",
    [
        {"outcome": Outcome.FAILED},
        {"failures": (FAILURE,)},
        {"results": None},
        {"results": DONE.results[:1]},  # type: ignore[index]
        {"results": [{"job": 0, "envelope": {}}, {"job": 1, "payload": 1}]},
        {"results": [{"job": 0, "payload": {"$type": "tuple", "v": []}}, {"job": 1, "payload": 1}]},
        {"task_id": None},
    ],
    ids=["failed", "failures", "elsewhere", "incomplete", "envelope", "tagged", "no id yet"],
)
def test_anything_else_needs_a_worker(change: dict[str, Any]) -> None:
    assert plain_values(dataclasses.replace(DONE, **change)) is None


class Pushed(list[dict[str, Any]]):
    async def aset(self, **fields: Any) -> None:
        self.append(fields)


async def test_the_value_is_left_as_the_return_value_and_none_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    pushed = Pushed()
    monkeypatch.setattr(ending, "XCom", pushed)
    assert await leave_return_value(TI, [1])
    assert await leave_return_value(TI, None)
    assert pushed == [
        {"key": "return_value", "value": [1], "dag_id": "d", "task_id": "t", "run_id": "r", "map_index": -1}
    ]


async def test_few_values_are_on_their_way_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        under_way = most = done = 0

        async def aset(self, **_: Any) -> None:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            await asyncio.sleep(0)
            self.under_way -= 1
            self.done += 1

    slow = Slow()
    monkeypatch.setattr(ending, "XCom", slow)
    await asyncio.gather(*(leave_return_value(TI, number) for number in range(50)))
    assert (slow.most, slow.done) == (ending.AT_ONCE, 50)

    left = await asyncio.gather(*(leave_return_value(TI, number) for number in range(ending.QUEUE_LIMIT + 20)))
    assert left.count(False) == 20, "workers take what is too much at once"
    assert await leave_return_value(TI, 1)


async def fired(monkeypatch: pytest.MonkeyPatch, event: FunctionEvent, *, returns: Any, ti: Any = TI) -> Any:
    class Over:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        async def until_over(self) -> FunctionEvent:
            return event

    async def connection(*_: Any) -> None: ...

    monkeypatch.setattr(module, "Wait", Over)
    monkeypatch.setattr(module, "connection_that_fits", connection)
    trigger = PandaFunctionTrigger(
        panda_conn_id="c", task_key=KEY, task_name="n", processing_type="p", policy=CallPolicy(n_jobs=2),
        returns=returns,
    )  # fmt: skip
    monkeypatch.setattr(PandaFunctionTrigger, "task_instance", ti)
    return await anext(trigger.run())


async def test_a_trigger_that_may_ends_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    pushed = Pushed()
    monkeypatch.setattr(ending, "XCom", pushed)
    for returns, left in (("list", [{"a": [1, 2.5, None]}, "b"]), ("value", {"a": [1, 2.5, None]})):
        assert isinstance(await fired(monkeypatch, DONE, returns=returns), TaskSuccessEvent)
        assert pushed.pop()["value"] == left


async def test_a_trigger_resumes_the_task_where_it_may_not_or_cannot_end_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        async def aset(self, **_: Any) -> None:
            raise RuntimeError("the supervisor is away")

    monkeypatch.setattr(ending, "XCom", Broken())
    failed = dataclasses.replace(DONE, outcome=Outcome.FAILED, failures=(FAILURE,))
    for event, returns, ti in ((DONE, None, TI), (failed, "list", TI), (DONE, "list", None), (DONE, "list", TI)):
        told = await fired(monkeypatch, event, returns=returns, ti=ti)
        assert type(told) is TriggerEvent
        assert FunctionEvent.from_json(told.payload) == event
    assert capsys.readouterr().out.count("the supervisor is away") == 1


def test_what_the_trigger_may_do_survives_serialisation() -> None:
    trigger = PandaFunctionTrigger(
        panda_conn_id="c", task_key=KEY, task_name="n", processing_type="p", policy=CallPolicy(n_jobs=1), returns="list"
    )
    _, fields = trigger.serialize()
    assert PandaFunctionTrigger(**fields).returns == "list"
    del fields["returns"]  # written by an older provider
    assert PandaFunctionTrigger(**fields).returns is None
