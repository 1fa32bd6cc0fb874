"""Operator, trigger and sensor of PanDA tasks against the embedded grid, from submission to value."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException

from airflow_provider_panda import configuration
from airflow_provider_panda.exceptions import DeadlineExceededError, GridTaskFailedError, TaskNotFoundError
from airflow_provider_panda.grid.panda import PandaGrid
from airflow_provider_panda.hooks.panda import PandaHook
from airflow_provider_panda.operators.task import PandaTaskOperator
from airflow_provider_panda.sensors.task import PandaTaskSensor
from airflow_provider_panda.triggers import kill as kill_module
from airflow_provider_panda.triggers import task as task_module
from airflow_provider_panda.triggers.event import Outcome
from airflow_provider_panda.triggers.looks import Place
from airflow_provider_panda.triggers.task import PandaTaskTrigger
from demo.grid import Grid
from tests.stack.activemq import ActiveMQ
from tests.unit.operators.scene import Store, TaskInstance

SECRET = "secret of the task tests"


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory, activemq: ActiveMQ) -> Iterator[Grid]:
    # A task that needs nothing is over before a trigger could listen; the queue delay is the grid's.
    grid = Grid(
        tmp_path_factory.mktemp("grid"),
        ["--slots", "3", "--queue-delay", "2", "--broker", f"{activemq.host}:{activemq.port}"],
        env={
            "PANDA_GRID_BROKER_LOGIN": activemq.publisher.name,
            "PANDA_GRID_BROKER_PASSCODE": activemq.publisher.passcode,
        },
    )
    yield grid
    grid.stop()


@pytest.fixture
def panda(grid: Grid, activemq: ActiveMQ, monkeypatch: pytest.MonkeyPatch) -> PandaGrid:
    stomp = {
        "conn_type": "stomp",
        "host": f"{activemq.host}:{activemq.port}",
        "login": activemq.subscriber.name,
        "password": activemq.subscriber.passcode,
        "extra": {"status_destination": "/topic/panda_idds"},
    }
    extra = {"auth": "token", "vo": "wlcg", "instance_secret": SECRET}
    fields = {"conn_type": "panda", "host": grid.url, "password": grid.token()}
    monkeypatch.setenv("AIRFLOW_CONN_PANDA_DEFAULT", json.dumps({**fields, "extra": extra}))
    monkeypatch.setenv("AIRFLOW_CONN_BROKER", json.dumps(stomp))
    listening = {**fields, "extra": {**extra, "broker_conn_id": "broker"}}
    monkeypatch.setenv("AIRFLOW_CONN_LISTENING", json.dumps(listening))
    monkeypatch.setattr(configuration, "poll_interval", lambda: 1.0)
    monkeypatch.setattr(configuration, "settle_time", lambda: 0.0)
    return PandaHook("panda_default").grid()


class Try:
    """One try of an operator or a sensor, as worker and triggerer run it."""

    def __init__(self, operator: Any) -> None:
        self.operator, self.ti = operator, TaskInstance()
        self.context: Any = {"ti": self.ti, "task_state_store": Store()}

    def trigger(self) -> PandaTaskTrigger:
        from airflow.providers.common.compat.sdk import TaskDeferred

        with pytest.raises(TaskDeferred) as deferred:
            self.operator.execute(self.context)
        path, fields = deferred.value.trigger.serialize()
        assert path == "airflow_provider_panda.triggers.task.PandaTaskTrigger"
        return PandaTaskTrigger(**json.loads(json.dumps(fields)))

    async def value(self) -> Any:
        trigger = await asyncio.to_thread(self.trigger)
        event = await anext(trigger.run())
        payload = json.loads(json.dumps(event.payload))
        return await asyncio.to_thread(
            self.operator.resume_execution, "execute_complete", {"event": payload}, self.context
        )


async def ran(operator: Any) -> Any:
    return await Try(operator).value()


def command(text: str, **arguments: Any) -> PandaTaskOperator:
    return PandaTaskOperator(task_id="task", command=text, max_attempt=1, **arguments)


async def test_command_with_files_and_outputs(panda: PandaGrid, tmp_path: Path) -> None:
    (tmp_path / "count.sh").write_text("#!/bin/sh\nexpr $1 '*' 10\n")
    (tmp_path / "count.sh").chmod(0o755)
    value = await ran(
        command(
            "./count.sh $PANDA_JOB > counted.txt; cp counted.txt a.log; cp counted.txt b.log",
            files=[str(tmp_path / "count.sh")],
            outputs=["counted.txt", "*.log"],
            n_jobs=3,
        )
    )
    assert value["state"] == "done"
    assert value["files"] == {"total": 3, "finished": 3, "failed": 0}
    assert value["outputs"] == [f"{value['name']}.counted.txt", f"{value['name']}.XYZ.log.tgz"]
    assert panda.status(value["task_id"]).name == value["name"]
    produced = {lfn for record in listed_files(panda, value["task_id"]) for lfn in record}
    assert f"{value['name']}.{value['task_id']}._000001.counted.txt" in produced


def listed_files(panda: PandaGrid, task_id: int) -> list[list[str]]:
    """Return the names of output files as PanDA lists them, by dataset."""
    answer = panda._read("get_files_in_datasets", task_id, "output")
    return [[file["lfn"] for file in row["files"]] for row in answer.data]


async def test_parameter_map(panda: PandaGrid) -> None:
    given = {"taskName": "user.me.map", "jobParameters": [{"type": "constant", "value": 'test -z "$IN"'}]}
    value = await ran(PandaTaskOperator(task_id="task", task_parameters=given))
    assert value["state"] == "done"
    assert value["name"].startswith("user.me.map-af")
    assert value["outputs"] == []


async def test_some_jobs_failed(panda: PandaGrid) -> None:
    text = "echo job $PANDA_JOB >&2; exit $PANDA_JOB"
    value = await ran(command(text, n_jobs=2, success_states=["done", "finished"]))
    assert (value["state"], value["files"]["failed"]) == ("finished", 1)
    with pytest.raises(GridTaskFailedError, match=r"ended as 'finished', not done.* payload 1: job 1.*pbook, show"):
        await ran(command(text, n_jobs=2))


async def test_missing_output_fails_and_says_so(panda: PandaGrid) -> None:
    with pytest.raises(GridTaskFailedError, match=r"ended as 'failed'.*did not make its output nothing\.root"):
        await ran(command("true", outputs=["nothing.root"]))


async def test_parameters_that_jedi_cannot_use_break_the_task(panda: PandaGrid) -> None:
    given = {"vo": "nosuchvo", "jobParameters": [{"type": "constant", "value": "true"}]}
    with pytest.raises(GridTaskFailedError, match=r"ended as 'broken'.*undefined for vo=nosuchvo"):
        await ran(PandaTaskOperator(task_id="task", task_parameters=given))


async def until(panda: PandaGrid, task_id: int, wanted: str) -> None:
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(TaskNotFoundError):
                if (await asyncio.to_thread(panda.status, task_id)).status == wanted:
                    return
            await asyncio.sleep(0.2)


async def test_deadline_kills(panda: PandaGrid) -> None:
    attempt = Try(command("sleep 120", deadline=3))
    with pytest.raises(DeadlineExceededError, match="before its deadline"):
        await attempt.value()
    await until(panda, attempt.ti.xcoms["panda_task_id"], "aborted")


@pytest.mark.parametrize("reassigned", [False, True])
async def test_on_kill_kills_unless_another_triggerer_has_the_task(
    panda: PandaGrid, monkeypatch: pytest.MonkeyPatch, reassigned: bool
) -> None:
    attempt = Try(command("sleep 8"))
    trigger = await asyncio.to_thread(attempt.trigger)
    task_id = attempt.ti.xcoms["panda_task_id"]
    trigger.task_instance = attempt.ti  # type: ignore[assignment]

    async def state_at(place: Place) -> str:
        return "deferred" if reassigned else "failed"

    monkeypatch.setattr(kill_module, "state_at", state_at)
    monkeypatch.setattr(kill_module.XCom, "get_one", lambda **_: task_id)
    await trigger.on_kill()
    await until(panda, task_id, "done" if reassigned else "aborted")


async def test_sensor_waits_for_tasks_of_others(panda: PandaGrid) -> None:
    one, two = Try(command("sleep 4")), Try(command("sleep 6"))
    ids = [(await asyncio.to_thread(each.trigger)).task_ids[0] for each in (one, two)]
    values = await ran(PandaTaskSensor(task_id="sensor", panda_task_id=ids))
    assert [(value["task_id"], value["state"]) for value in values] == [(ids[0], "done"), (ids[1], "done")]
    # Now that they have ended, nothing is deferred.
    again = PandaTaskSensor(task_id="sensor", panda_task_id=str(ids[0]), states=["done"])
    assert again.execute(Try(again).context)["state"] == "done"


async def test_sensor_takes_a_state_on_the_way(panda: PandaGrid) -> None:
    (task_id,) = (await asyncio.to_thread(Try(command("sleep 10")).trigger)).task_ids
    value = await ran(PandaTaskSensor(task_id="sensor", panda_task_id=task_id, states=["running", "done"]))
    assert value["state"] == "running"


async def test_sensor_fails_with_the_task_and_at_its_timeout(panda: PandaGrid) -> None:
    (task_id,) = (await asyncio.to_thread(Try(command("sleep 1; exit 3")).trigger)).task_ids
    with pytest.raises(AirflowException, match="ended as 'failed', not done or finished"):
        await ran(PandaTaskSensor(task_id="sensor", panda_task_id=task_id))
    (task_id,) = (await asyncio.to_thread(Try(command("sleep 20")).trigger)).task_ids
    with pytest.raises(AirflowException, match="is 'running'"):
        await ran(PandaTaskSensor(task_id="sensor", panda_task_id=task_id, timeout=4))
    assert panda.status(task_id).status == "running"  # it is another's


async def test_sensor_of_a_task_that_does_not_exist(panda: PandaGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_module, "UNKNOWN_PATIENCE", 2.0)
    with pytest.raises(AirflowException, match="PanDA does not know task 987654"):
        await ran(PandaTaskSensor(task_id="sensor", panda_task_id=987654))


async def test_a_status_message_is_faster_than_the_poll(panda: PandaGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "poll_interval", lambda: 3600.0)
    attempt = Try(command("sleep 5", panda_conn_id="listening"))
    trigger = await asyncio.to_thread(attempt.trigger)
    async with asyncio.timeout(90):
        event = await anext(trigger.run())
    assert event.payload["outcome"] == Outcome.COMPLETE.value


async def test_an_early_end_is_kept_back(panda: PandaGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "settle_time", lambda: 12.0)
    began = time.time()
    await ran(command("true"))
    assert time.time() - began >= 12.0
