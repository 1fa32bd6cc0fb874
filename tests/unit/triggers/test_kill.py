"""What a user's mark or clear kills, and what it does not: a task that another triggerer has taken over."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_panda import configuration
from airflow_provider_panda.exceptions import (
    ConfigurationError,
    GridAuthError,
    GridRefusedError,
    GridServerError,
    GridUnreachableError,
    TaskNotFoundError,
)
from airflow_provider_panda.grid.retry import RetryPolicy
from airflow_provider_panda.grid.task import JobRecord
from airflow_provider_panda.links import LINK_KEY, PandaTaskLink
from airflow_provider_panda.triggers import function, ids, kill
from airflow_provider_panda.triggers.function import PandaFunctionTrigger
from airflow_provider_panda.triggers.ids import tell_task_id
from airflow_provider_panda.triggers.kill import is_still_waited_for, kill_unless_still_waited_for
from airflow_provider_panda.triggers.looks import Place
from tests.unit.triggers.scripted import (
    KEY,
    REQUEST,
    TASK,
    TRANSFORM,
    Idds,
    Panda,
    report,
    request,
    shared,
    task,
    transform,
)

TI = SimpleNamespace(dag_id="dag", task_id="task", run_id="run", map_index=-1)
log = logging.getLogger("the trigger")


class Airflow:
    """What the supervisor says of a task instance, and the XComs that are set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state: str | None = "failed"
        self.current: Any = KEY
        self.xcoms: dict[str, Any] = {}
        self.error: Exception | None = None
        self.asked: list[dict[str, Any]] = []
        self.troubles: list[Exception] = []
        monkeypatch.setattr(kill, "state_at", self._state_at)
        monkeypatch.setattr(kill, "LOOKS", RetryPolicy(attempts=4, first=0.01, longest=0.01))
        monkeypatch.setattr(kill, "KILLS", RetryPolicy(attempts=4, first=0.01, longest=0.01))
        monkeypatch.setattr(kill.XCom, "get_one", self._get_one)
        monkeypatch.setattr(ids.XCom, "set", self._set)

    async def _state_at(self, place: Place) -> str | None:
        assert place == Place("dag", "run", "task", -1)
        if self.troubles:
            raise self.troubles.pop(0)
        return self.state

    def _get_one(self, **where: Any) -> Any:
        self.asked.append(where)
        return self.current

    def _set(self, *, key: str, value: Any, **where: Any) -> None:
        if self.error is not None:
            raise self.error
        assert where == {"dag_id": "dag", "task_id": "task", "run_id": "run", "map_index": -1}
        self.xcoms[key] = value


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> Airflow:
    return Airflow(monkeypatch)


@pytest.mark.parametrize(
    ("ti", "state", "current", "still"),
    [
        (None, "deferred", KEY, False),
        (TI, "deferred", KEY, True),
        (TI, "deferred", "another key", False),
        (TI, "deferred", None, False),
        (TI, "failed", KEY, False),
        (TI, "queued", KEY, False),
        (TI, None, KEY, False),  # deleted, or cleared a moment ago
    ],
)
async def test_a_reassigned_trigger_is_told_from_a_killed_one(
    airflow: Airflow, ti: Any, state: str | None, current: Any, still: bool
) -> None:
    airflow.state, airflow.current = state, current
    assert await is_still_waited_for(ti, id_key="k", own_id=KEY) is still
    assert all(where["key"] == "k" and where["run_id"] == "run" for where in airflow.asked)
    assert len(airflow.asked) == (ti is TI and state == "deferred"), "a call to the supervisor that is not needed"


async def settled() -> None:
    async with asyncio.timeout(60):
        while kill._kills:
            await asyncio.sleep(0)


async def test_the_kill_survives_the_call(airflow: Airflow) -> None:
    begun, go, done = asyncio.Event(), asyncio.Event(), []

    async def slowly() -> None:
        begun.set()
        await go.wait()
        done.append(1)

    call = asyncio.create_task(
        kill_unless_still_waited_for(TI, id_key="k", own_id=KEY, kill=slowly, what="it", by_hand="do it", log=log)
    )
    await begun.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert done == []
    go.set()
    await settled()
    assert done == [1]


def attempts(*outcomes: Exception | None) -> tuple[list[int], Any]:
    """Return a kill that ends in one way after another, and where its attempts are noted."""
    left, made = list(outcomes), []

    async def attempt() -> None:
        made.append(1)
        outcome = left.pop(0) if left else None
        if outcome is not None:
            raise outcome

    return made, attempt


async def killed(action: Any) -> None:
    await kill_unless_still_waited_for(TI, id_key="k", own_id=KEY, kill=action, what="it", by_hand="do this", log=log)
    await settled()


@pytest.mark.parametrize(
    "trouble",
    [
        GridUnreachableError("down"), GridServerError("502", status=502), GridAuthError("expired"),
        TaskNotFoundError("not registered"), OSError("no network"),
    ],
)  # fmt: skip
async def test_a_kill_goes_on_while_that_may_help(
    airflow: Airflow, caplog: pytest.LogCaptureFixture, trouble: Exception
) -> None:
    caplog.set_level(logging.INFO)
    made, action = attempts(trouble, trouble)
    await killed(action)
    assert len(made) == 3
    assert "it: killed by the user's action" in caplog.text


@pytest.mark.parametrize(
    ("trouble", "count"),
    [
        (GridUnreachableError("still down"), 4),
        (GridRefusedError("never"), 1),
        (ConfigurationError("connection c", "gone", "Make it"), 1),
    ],
)
async def test_a_kill_that_fails_says_what_to_do(
    airflow: Airflow, caplog: pytest.LogCaptureFixture, trouble: Exception, count: int
) -> None:
    made, action = attempts(*[trouble] * 10)
    await killed(action)
    assert len(made) == count
    assert f"it: could not be killed: {trouble}. `airflow panda reap` will, or do this" in caplog.text


async def test_airflow_is_asked_again_before_a_kill(airflow: Airflow) -> None:
    airflow.troubles = [RuntimeError("the API is down")] * 3
    made, action = attempts()
    await killed(action)
    assert len(made) == 1


async def test_nothing_is_killed_while_airflow_does_not_say(airflow: Airflow, caplog: pytest.LogCaptureFixture) -> None:
    airflow.troubles = [RuntimeError("the API is down")] * 10
    made, action = attempts()
    await killed(action)
    assert made == []
    assert "it: not killed, for Airflow cannot be asked" in caplog.text
    assert len(airflow.troubles) == 6


def trigger(monkeypatch: pytest.MonkeyPatch, idds: Idds, panda: Panda, **fields: Any) -> PandaFunctionTrigger:
    connection = shared(idds, panda)

    async def look_up(conn_id: str, *_: Any) -> Any:
        assert conn_id == "c"
        return connection

    monkeypatch.setattr(function, "shared_connection", look_up)
    monkeypatch.setattr(function, "connection_that_fits", look_up)
    made = PandaFunctionTrigger(
        panda_conn_id="c",
        task_key=KEY,
        task_name="n_5_9",
        processing_type="airflow-abcd",
        policy={"n_jobs": 1},
        **fields,
    )
    monkeypatch.setattr(PandaFunctionTrigger, "task_instance", TI, raising=False)
    monkeypatch.setattr(PandaFunctionTrigger, "log", log)
    return made


THROUGH = {"request_id": REQUEST, "transform_id": TRANSFORM}


async def test_a_task_that_came_through_idds_is_killed_once_it_is_there(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    panda = Panda()
    idds = Idds(request(transform()), request(transform("Transforming")), request(transform(task_id=TASK)))
    await trigger(monkeypatch, idds, panda, **THROUGH).on_kill()
    await settled()
    assert panda.killed == [TASK]
    assert airflow.asked == []  # it was not deferred any more


async def test_a_known_task_is_killed_without_asking_idds(airflow: Airflow, monkeypatch: pytest.MonkeyPatch) -> None:
    panda, idds = Panda(), Idds()
    await trigger(monkeypatch, idds, panda, task_id=TASK).on_kill()
    await settled()
    assert (panda.killed, idds.listed) == ([TASK], 0)


@pytest.mark.parametrize(
    "listing", [request(transform("Failed")), request(), None], ids=["failed without one", "no transform", "no request"]
)
async def test_what_never_came_to_panda_needs_no_kill(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, listing: Any
) -> None:
    panda = Panda()
    await trigger(monkeypatch, Idds(listing), panda, **THROUGH).on_kill()
    await settled()
    assert panda.killed == []
    assert "could not be killed" not in caplog.text


async def test_a_task_that_does_not_appear_is_told(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    idds = Idds(request(transform()))
    await trigger(monkeypatch, idds, Panda(), **THROUGH).on_kill()
    await settled()
    assert idds.listed == 4
    assert f"{KEY} (iDDS transform {TRANSFORM}): could not be killed" in caplog.text
    assert "kill the task n_5_9" in caplog.text


async def test_a_trigger_that_moved_kills_nothing(airflow: Airflow, monkeypatch: pytest.MonkeyPatch) -> None:
    airflow.state = "deferred"
    panda = Panda()
    await trigger(monkeypatch, Idds(), panda, **THROUGH).on_kill()
    await settled()
    assert panda.killed == []


def test_a_trigger_is_made_again_from_what_it_serializes() -> None:
    made = PandaFunctionTrigger(
        panda_conn_id="c",
        task_key=KEY,
        task_name="n",
        processing_type="p",
        policy={"n_jobs": 2},
        deadline=5.0,
        **THROUGH,
    )
    path, fields = made.serialize()
    assert path == "airflow_provider_panda.triggers.function.PandaFunctionTrigger"
    again = PandaFunctionTrigger(**fields, of_a_newer_provider=1)
    assert again.awaited == made.awaited
    assert (again.awaited.request_id, again.awaited.transform_id, again.awaited.task_id) == (REQUEST, TRANSFORM, None)


async def told(connection: Any) -> None:
    tell_task_id(TI, connection, TASK, log=log)
    async with asyncio.timeout(60):
        while ids._telling:
            await asyncio.sleep(0)


async def test_a_late_id_is_left_with_the_link(airflow: Airflow) -> None:
    await told(shared(Idds(), Panda()).panda)
    assert airflow.xcoms.pop(ids.TASK_ID_KEY) == TASK
    (link,) = set(airflow.xcoms.values())
    assert set(airflow.xcoms) == {LINK_KEY, PandaTaskLink().xcom_key}, "the button needs no worker to be refreshed"
    assert link.startswith("http://mon")
    assert str(TASK) in link


async def test_a_late_id_that_cannot_be_left_fails_nothing(airflow: Airflow, caplog: pytest.LogCaptureFixture) -> None:
    airflow.error = RuntimeError("the supervisor is gone")
    await told(shared(Idds(), Panda()).panda)
    assert f"the id of PanDA task {TASK} could not be left in XCom" in caplog.text


async def test_without_a_task_instance_nothing_is_told(airflow: Airflow) -> None:
    tell_task_id(None, shared(Idds(), Panda()).panda, TASK, log=log)
    assert not ids._telling
    assert airflow.xcoms == {}


async def test_the_trigger_leaves_the_id_and_fires_once(airflow: Airflow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "poll_interval", lambda: 0.02)
    idds, panda = Idds(request(transform(task_id=TASK))), Panda(task("running"), task("done", finished=1))
    panda.records = [JobRecord(panda_id=1, job=0, attempt=1, status="finished", report=report(payload=7))]
    async with asyncio.timeout(60):
        events = [event async for event in trigger(monkeypatch, idds, panda, **THROUGH).run()]
        while ids._telling:
            await asyncio.sleep(0)
    assert [event.payload["results"] for event in events] == [[{"job": 0, "payload": 7}]]
    assert events[0].payload["task_id"] == TASK
    assert airflow.xcoms[ids.TASK_ID_KEY] == TASK


async def test_a_listing_that_fails_once_does_not_end_the_kill(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    idds, panda = Idds(GridServerError("502", status=502), request(transform(task_id=TASK))), Panda()
    await trigger(monkeypatch, idds, panda, **THROUGH).on_kill()
    await settled()
    assert panda.killed == [TASK]
