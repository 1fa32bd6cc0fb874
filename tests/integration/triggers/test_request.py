"""Operator, trigger and sensor of iDDS requests against a real iDDS, with works as iDDS's users write them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, TaskDeferred

from airflow_provider_panda import configuration
from airflow_provider_panda.exceptions import DeadlineExceededError, GridTaskFailedError
from airflow_provider_panda.grid.panda import PandaGrid
from airflow_provider_panda.hooks.panda import PandaHook
from airflow_provider_panda.operators.workflow import IddsWorkflowOperator
from airflow_provider_panda.sensors.request import IddsRequestSensor
from airflow_provider_panda.triggers import kill as kill_module
from airflow_provider_panda.triggers import request as request_module
from airflow_provider_panda.triggers.looks import Place
from airflow_provider_panda.triggers.request import WORKFLOW_REQUEST_KEY, IddsRequestTrigger
from demo.processes import environment
from tests.stack.stack import Stack
from tests.unit.operators.scene import Store, TaskInstance

PROGRAM = Path(__file__).parents[1] / "stack" / "doma_workflow.py"
SECRET = "secret of the request tests"


@pytest.fixture
def panda(idds_stack: Stack, monkeypatch: pytest.MonkeyPatch) -> PandaGrid:
    access = idds_stack.access
    extra = {"auth": "token", "vo": access.vo, "idds_host": access.idds_url, "instance_secret": SECRET}
    connection = {"conn_type": "panda", "host": access.panda_url, "password": access.token, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_PANDA_DEFAULT", json.dumps(connection))
    monkeypatch.setattr(configuration, "poll_interval", lambda: 1.0)
    monkeypatch.setattr(configuration, "settle_time", lambda: 0.0)
    return PandaHook("panda_default").grid()


def workflow(stack: Stack, folder: Path, first: str, second: str, *, name: str = "study") -> str:
    """Return the JSON of a workflow of two works, as iDDS's own classes write it."""
    done = subprocess.run(
        [str(stack.idds.python), str(PROGRAM), name, stack.access.queue, first, second],
        env=environment(IDDS_CONFIG=os.devnull, HOME=str(folder)), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    told = [line for line in done.stdout.splitlines() if line.startswith("TOLD ")]
    assert told, done.stderr[-3000:]
    return told[0].removeprefix("TOLD ")


class Try:
    """One try of an operator or a sensor, as worker and triggerer run it."""

    def __init__(self, operator: Any) -> None:
        self.operator, self.ti = operator, TaskInstance()
        self.context: Any = {"ti": self.ti, "task_state_store": Store()}

    def trigger(self) -> IddsRequestTrigger:
        with pytest.raises(TaskDeferred) as deferred:
            self.operator.execute(self.context)
        path, fields = deferred.value.trigger.serialize()
        assert path == "airflow_provider_panda.triggers.request.IddsRequestTrigger"
        return IddsRequestTrigger(**json.loads(json.dumps(fields)))

    async def resumed(self, trigger: IddsRequestTrigger) -> Any:
        event = await anext(trigger.run())
        payload = json.loads(json.dumps(event.payload))
        return await asyncio.to_thread(
            self.operator.resume_execution, "execute_complete", {"event": payload}, self.context
        )

    async def value(self) -> Any:
        return await self.resumed(await asyncio.to_thread(self.trigger))


def operator(given: Any, **arguments: Any) -> IddsWorkflowOperator:
    return IddsWorkflowOperator(task_id="task", workflow=given, **arguments)


async def until(what: Any, wanted: Any) -> None:
    async with asyncio.timeout(120):
        while await asyncio.to_thread(what) != wanted:
            await asyncio.sleep(0.5)


async def test_a_workflow_of_two_works(idds_stack: Stack, panda: PandaGrid, tmp_path: Path) -> None:
    file = tmp_path / "workflow.json"
    file.write_text(workflow(idds_stack, tmp_path, "echo one", "echo two"))
    made = Try(operator(str(file)))
    trigger = await asyncio.to_thread(made.trigger)
    # A sensor waits for the same request, as for any that was made elsewhere.
    sensor = Try(IddsRequestSensor(task_id="sensor", request_id=made.ti.xcoms[WORKFLOW_REQUEST_KEY]))
    value, seen = await asyncio.gather(made.resumed(trigger), sensor.value())
    assert value["status"] == "Finished"
    assert sorted((each["name"], each["status"]) for each in value["transforms"]) == [
        ("study_first", "Finished"),
        ("study_second", "Finished"),
    ]
    for transform in value["transforms"]:
        task = panda.status(transform["task_id"])
        assert transform["name"] in task.name
        assert task.status == "done"
    assert seen == value
    # By now it needs no triggerer.
    again = IddsRequestSensor(task_id="sensor", request_id=value, states=["Finished"])
    assert again.execute(Try(again).context) == value


async def test_a_work_that_fails_tells_pandas_reason(idds_stack: Stack, panda: PandaGrid, tmp_path: Path) -> None:
    made = operator(workflow(idds_stack, tmp_path, "echo calibration is missing >&2; exit 3", "echo two", name="bad"))
    with pytest.raises(GridTaskFailedError) as failed:
        await Try(made).value()
    told = str(failed.value)
    assert "ended as" in told
    assert "bad_first" in told
    assert "calibration is missing" in told


async def test_on_kill_aborts_the_request_and_kills_its_task(
    idds_stack: Stack, panda: PandaGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = Try(operator(workflow(idds_stack, tmp_path, "sleep 300", "echo two", name="killed")))
    trigger = await asyncio.to_thread(attempt.trigger)
    request_id = attempt.ti.xcoms[WORKFLOW_REQUEST_KEY]
    client = PandaHook("panda_default").idds()

    def task_of_first() -> int | None:
        status = client.request(request_id)
        transforms = status.transforms if status else ()
        return next((each.task_id for each in transforms if each.name == "killed_first"), None)

    def runs() -> bool:
        task_id = task_of_first()
        return task_id is not None and panda.status(task_id).status == "running"

    await until(runs, True)
    task_id = task_of_first()
    assert task_id is not None
    trigger.task_instance = attempt.ti  # type: ignore[assignment]

    async def state_at(place: Place) -> str:
        return "failed"

    monkeypatch.setattr(kill_module, "state_at", state_at)
    monkeypatch.setattr(kill_module.XCom, "get_one", lambda **_: request_id)
    await trigger.on_kill()
    await until(lambda: panda.status(task_id).status, "aborted")
    await until(lambda: getattr(client.request(request_id), "ended", False), True)
    with pytest.raises(AirflowException, match=r"ended as '(Cancelled|Failed|SubFinished)'"):
        await Try(IddsRequestSensor(task_id="sensor", request_id=request_id, states=["Finished"])).value()


async def test_deadline_ends_the_request(idds_stack: Stack, panda: PandaGrid, tmp_path: Path) -> None:
    attempt = Try(operator(workflow(idds_stack, tmp_path, "sleep 300", "echo two", name="late"), deadline=45))
    with pytest.raises(DeadlineExceededError, match="before its deadline"):
        await attempt.value()
    client = PandaHook("panda_default").idds()
    status = client.request(attempt.ti.xcoms[WORKFLOW_REQUEST_KEY])
    assert status is not None
    ids = [each.task_id for each in status.transforms if each.name == "late_first" and each.task_id is not None]
    for task_id in ids:
        await until(lambda task_id=task_id: panda.status(task_id).phase.terminal, True)
    assert ids


async def test_a_request_that_does_not_exist(
    idds_stack: Stack, panda: PandaGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_module, "UNKNOWN_PATIENCE", 2.0)
    with pytest.raises(AirflowException, match="iDDS does not know request 987654"):
        await Try(IddsRequestSensor(task_id="sensor", request_id=987654)).value()
