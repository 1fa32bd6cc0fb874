"""PandaTaskSensor: which tasks, which states, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, AirflowSkipException
from airflow.sdk.exceptions import AirflowSensorTimeout

from airflow_provider_panda.exceptions import ConfigurationError
from airflow_provider_panda.grid.answers import task_status
from airflow_provider_panda.sensors.task import PandaTaskSensor, read_task_ids
from airflow_provider_panda.triggers.event import Outcome
from airflow_provider_panda.triggers.task import TasksEvent
from tests.stack.scripted_panda import envelope, refusal, scripted_panda, status
from tests.unit.operators.scene import KILL, Scene, panda_connection, row

INFO, OUTPUTS = "task/get_detailed_info", "task/get_datasets_and_files"


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    with scripted_panda() as panda:
        monkeypatch.setenv("AIRFLOW_CONN_PANDA_DEFAULT", panda_connection(panda.url))
        panda.on(OUTPUTS, envelope([]))
        panda.on("task/get_job_ids", envelope([]))
        yield Scene(panda)


def sensor(panda_task_id: Any = 7, **arguments: Any) -> PandaTaskSensor:
    return PandaTaskSensor(task_id="sensor", panda_task_id=panda_task_id, **arguments)


@pytest.mark.parametrize(
    ("given", "ids"),
    [
        (7, [7]),
        ("7", [7]),
        ("[7, 8]", [7, 8]),
        ("7, 8,7", [7, 8]),
        ([7, "8"], [7, 8]),
        ({"task_id": 7, "state": "done"}, [7]),
        ([{"task_id": 7}, {"task_id": 8}], [7, 8]),
        ('{"task_id": 7}', [7]),
    ],
)
def test_ids_come_in_many_forms(given: Any, ids: list[int]) -> None:
    assert read_task_ids(given) == ids


@pytest.mark.parametrize("given", [None, "", "seven", [], 0, -1, True, 7.5, {"id": 7}, [None], "None"])
def test_what_is_no_id_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="argument panda_task_id"):
        read_task_ids(given)


def test_unknown_states_are_refused_when_the_dag_is_parsed() -> None:
    with pytest.raises(ConfigurationError, match="'ready to go' is not a state of a PanDA task"):
        sensor(states={"ready to go"})
    assert sensor(states="running").states == ("running",)


def test_a_task_that_is_there_already_needs_no_triggerer(scene: Scene) -> None:
    scene.panda.on(INFO, envelope(row("finished")))
    value = sensor().execute(scene.context)
    assert (value["task_id"], value["state"], value["files"]["finished"]) == (7, "finished", 1)
    assert scene.ti.xcoms["panda_task_url"] == "https://monitor/task/7/"


@pytest.mark.parametrize("first", [envelope(row("running")), refusal("Task not found"), status(400, "no")])
def test_otherwise_it_defers(scene: Scene, first: Any) -> None:
    scene.panda.on(INFO, first)
    path, trigger = scene.deferred(sensor(timeout=600, states=["done"])).trigger.serialize()
    assert path == "airflow_provider_panda.triggers.task.PandaTaskTrigger"
    assert (trigger["task_ids"], trigger["states"], trigger["task_key"]) == ([7], ["done"], None)
    assert trigger["deadline"] > 0


def test_several_tasks_give_several_values(scene: Scene) -> None:
    scene.panda.on(INFO, envelope(row("done", 7)), envelope(row("done", 8)))
    assert [value["task_id"] for value in sensor([7, 8]).execute(scene.context)] == [7, 8]


def test_an_id_that_is_none_fails_without_a_retry(scene: Scene) -> None:
    with pytest.raises(AirflowFailException, match="'nothing' is no id"):
        sensor("nothing").execute(scene.context)


def resumed(scene: Scene, made: PandaTaskSensor, outcome: Outcome, *rows: Any, unknown: tuple[int, ...] = ()) -> Any:
    came = TasksEvent(outcome=outcome, tasks=tuple(map(task_status, rows)), unknown=unknown)
    return made.resume_execution("execute_complete", {"event": came.to_json()}, scene.context)


def test_another_end_fails_it_and_nothing_is_killed(scene: Scene) -> None:
    with pytest.raises(AirflowException, match=r"PanDA task 7 ended as 'aborted', not done or finished.*show\(7\)"):
        resumed(scene, sensor(), Outcome.ENDED, row("aborted"))
    assert not scene.calls(KILL)


def test_a_task_that_does_not_exist_fails_it(scene: Scene) -> None:
    with pytest.raises(AirflowException, match="PanDA does not know task 7"):
        resumed(scene, sensor(), Outcome.FAILED, unknown=(7,))


def test_a_timeout_is_a_sensors_timeout(scene: Scene) -> None:
    with pytest.raises(AirflowSensorTimeout, match="7 is 'running'"):
        resumed(scene, sensor(), Outcome.DEADLINE, row("running"))
    assert not scene.calls(KILL)


@pytest.mark.parametrize(("outcome", "last"), [(Outcome.ENDED, "failed"), (Outcome.DEADLINE, "running")])
def test_soft_fail_skips(scene: Scene, outcome: Outcome, last: str) -> None:
    with pytest.raises(AirflowSkipException):
        resumed(scene, sensor(soft_fail=True), outcome, row(last))


@pytest.mark.parametrize("mode", ["poke", "reschedule"])
def test_mode_does_not_matter(scene: Scene, mode: str) -> None:
    scene.panda.on(INFO, envelope(row("running")))
    scene.deferred(sensor(mode=mode))
