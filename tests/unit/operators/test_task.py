"""PandaTaskOperator: what it refuses, what it submits, what it waits for, and what it makes of the end."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException
from airflow.sdk import DAG

from airflow_provider_panda.exceptions import ConfigurationError, DeadlineExceededError, GridTaskFailedError
from airflow_provider_panda.grid.answers import task_status
from airflow_provider_panda.grid.names import processing_type
from airflow_provider_panda.grid.task import instance_id, task_key
from airflow_provider_panda.operators import earlier
from airflow_provider_panda.operators.earlier import Stage
from airflow_provider_panda.operators.task import PandaTaskOperator
from airflow_provider_panda.triggers.event import Outcome
from airflow_provider_panda.triggers.task import TasksEvent
from tests.stack.scripted_panda import envelope, lose, scripted_panda, status
from tests.unit.operators.scene import KILL, LIST, SECRET, SUBMIT, Scene, panda_connection, row

KIND = processing_type(instance_id(SECRET))
MAP = {"jobParameters": [{"type": "constant", "value": "echo hello"}]}
ENDED = "task/get_datasets_and_files"


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    with scripted_panda() as panda:
        monkeypatch.setenv("AIRFLOW_CONN_PANDA_DEFAULT", panda_connection(panda.url, queue="Q"))
        yield Scene(panda)


def operator(**arguments: Any) -> PandaTaskOperator:
    return PandaTaskOperator(task_id="task", **arguments)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "exactly one of them is needed"),
        ({"command": "true", "task_parameters": MAP}, "exactly one of them is needed"),
        ({"command": ""}, "no shell command"),
        ({"task_parameters": {"taskName": "x"}}, "jobParameters is no list"),
        ({"task_parameters": {**MAP, "uniqueTaskName": False}}, "uniqueTaskName is off"),
        ({"task_parameters": MAP, "outputs": ["x"]}, "argument outputs: it goes with command="),
        ({"task_parameters": MAP, "core_count": 2}, "argument core_count: it goes with command="),
        ({"command": "true", "outputs": ["a/b"]}, "'a/b' is no name of an output file"),
        ({"command": "true", "inputs": "a b"}, "'a b' is no dataset name"),
        ({"command": "true", "inputs": "user.a.b", "n_jobs": 2}, "inputs decide how many jobs"),
        ({"command": "true", "files_per_job": 2}, "there are no inputs"),
        ({"command": "true", "destination": "SITE"}, "there is no output_dataset"),
        ({"command": "true", "n_jobs": 0}, "n_jobs: 0 is not a positive"),
        ({"command": "true", "success_states": ["running"]}, "'running' is not a state in which a PanDA task ends"),
        ({"command": "true", "success_states": ()}, "there is none"),
        ({"command": "true", "deadline": 0}, "deadline: 0 is not positive"),
    ],
)
def test_wrong_arguments_are_refused_when_the_dag_is_parsed(arguments: Any, told: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        operator(**arguments)
    assert told in str(refused.value)


def test_what_only_rendering_shows_is_refused_on_the_worker_without_a_retry(scene: Scene) -> None:
    made = operator(command="true", outputs=["{{ name }}"], output_dataset="{{ dataset }}")
    made.outputs = ["a/b"]
    with pytest.raises(AirflowFailException, match="'a/b' is no name"):
        made.execute(scene.context)
    made = operator(task_parameters="{{ ti.xcom_pull('maker') }}")
    with pytest.raises(AirflowFailException, match="render_template_as_native_obj"):
        made.execute(scene.context)
    assert not scene.calls(SUBMIT)


def test_a_command_is_submitted_under_its_key_and_waited_for(scene: Scene) -> None:
    deferred = scene.deferred(operator(command="make", outputs="out.root", n_jobs=3, memory_mb=500))
    key = task_key(instance_id(SECRET), scene.ti.id)
    parameters = scene.submitted()
    assert parameters["taskName"] == f"airflow-dag-task-manual__1-{key}"
    assert (parameters["processingType"], parameters["nFiles"], parameters["site"]) == (KIND, 3, "Q")
    assert parameters["ramCount"] == 500
    assert scene.ti.xcoms == {
        "panda_task_id": 7,
        "panda_task_key": key,
        "panda_task_url": "https://monitor/task/7/",
        "panda_output_datasets": [f"airflow-dag-task-manual__1-{key}.out.root"],
    }
    left = scene.left()
    assert (left.key, left.task_id, left.stage) == (key, 7, Stage.DEFERRING)
    path, trigger = deferred.trigger.serialize()
    assert path == "airflow_provider_panda.triggers.task.PandaTaskTrigger"
    assert (trigger["task_ids"], trigger["states"], trigger["task_key"]) == ([7], ["done"], key)
    assert trigger["processing_type"] == KIND
    assert trigger["deadline"] is None
    assert trigger["not_before"] > 0


def test_ended_before_it_has_anything_to_end_it_submits_nothing(scene: Scene) -> None:
    made = operator(command="make")
    made.on_kill()
    with pytest.raises(AirflowException, match="Airflow ended this worker"):
        made.execute(scene.context)
    assert not scene.calls(SUBMIT)
    assert scene.left().stage is Stage.ENDED


def test_executed_twice_a_try_submits_once(scene: Scene) -> None:
    scene.deferred(operator(command="make"))
    name = scene.submitted()["taskName"]
    scene.panda.on(LIST, envelope([row("running", taskName=name, processingType=KIND)]))
    scene.deferred(operator(command="make"))
    assert len(scene.calls(SUBMIT)) == 1
    assert scene.ti.xcoms["panda_task_id"] == 7
    assert not scene.calls(KILL)


def test_a_lost_reply_is_no_second_task(scene: Scene) -> None:
    def taken(seen: Any) -> None:
        name = seen.json["task_parameters"]["taskName"]
        scene.panda.on(LIST, envelope([row("registered", 9, taskName=name, processingType=KIND)]))

    scene.panda.on(SUBMIT, lose(taken))
    scene.deferred(operator(command="make"))
    assert len(scene.calls(SUBMIT)) == 1
    assert scene.ti.xcoms["panda_task_id"] == 9


def test_a_further_try_kills_what_the_last_one_left(scene: Scene) -> None:
    scene.deferred(operator(command="make"))
    scene.panda.on(KILL, envelope(0, message="command=kill is registered"))
    scene.panda.on(SUBMIT, envelope(8, message="succeeded. new jediTaskID=8"))
    again = Scene.__new__(Scene)
    again.__dict__.update(scene.__dict__, ti=type(scene.ti)())
    again.deferred(operator(command="make"))
    assert [seen.json["task_id"] for seen in scene.calls(KILL)] == [7]
    assert again.left().task_id == 8


def next_try(scene: Scene, *, killed_at: Stage | None = None) -> Scene:
    """Return the next try of a task instance whose worker was lost before the deferral."""
    if killed_at is not None:
        left = replace(scene.left(), stage=killed_at, task_id=None)
        earlier.write(scene.context, left)  # type: ignore[arg-type]
    again = Scene.__new__(Scene)
    again.__dict__.update(scene.__dict__, ti=type(scene.ti)())
    return again


@pytest.mark.parametrize("given", [{"command": "make"}, {"task_parameters": {**MAP, "taskName": "user.me.x"}}])
@pytest.mark.parametrize("status", ["running", "done"])
def test_a_task_that_was_never_waited_for_is_taken_up(scene: Scene, given: dict[str, Any], status: str) -> None:
    scene.deferred(operator(**given))
    again = next_try(scene, killed_at=Stage.SUBMITTING)
    name = scene.submitted()["taskName"]
    scene.panda.on(LIST, envelope([row(status, taskName=name, processingType=KIND)]))
    trigger = again.deferred(operator(**given)).trigger.serialize()[1]
    assert (trigger["task_ids"], trigger["task_key"]) == ([7], scene.ti.xcoms["panda_task_key"])
    assert again.ti.xcoms == scene.ti.xcoms
    assert len(scene.calls(SUBMIT)) == 1
    assert not scene.calls(KILL)


def test_a_partial_success_is_taken_up_where_it_is_one(scene: Scene) -> None:
    states = {"success_states": ["done", "finished"]}
    scene.deferred(operator(command="make", **states))
    again = next_try(scene, killed_at=Stage.SUBMITTING)
    name = scene.submitted()["taskName"]
    scene.panda.on(LIST, envelope([row("finished", taskName=name, processingType=KIND)]))
    again.deferred(operator(command="make", **states))
    assert len(scene.calls(SUBMIT)) == 1


@pytest.mark.parametrize(
    ("arguments", "status", "stage"),
    [
        ({"command": "make all"}, "running", Stage.SUBMITTING),
        ({"command": "make", "memory_mb": 500}, "running", Stage.SUBMITTING),
        ({"command": "make"}, "aborting", Stage.SUBMITTING),
        ({"command": "make"}, "finished", Stage.SUBMITTING),
        ({"command": "make"}, "running", Stage.ENDED),
    ],
)
def test_another_one_or_one_that_is_over_is_killed_by_its_name(
    scene: Scene, arguments: dict[str, Any], status: str, stage: Stage
) -> None:
    scene.deferred(operator(command="make"))
    again = next_try(scene, killed_at=stage)
    old = scene.submitted()["taskName"]

    def listed(handler: Any, seen: Any) -> None:
        wanted = json.loads(seen.query["filters"][0])["taskName"]
        envelope([row(status, taskName=old, processingType=KIND)] if wanted == old else [])(handler, seen)

    scene.panda.on(LIST, listed)
    scene.panda.on(KILL, envelope(0, message="command=kill is registered"))
    again.deferred(operator(**arguments))
    assert [seen.json["task_id"] for seen in scene.calls(KILL)] == [7]
    assert [seen.json["task_parameters"]["taskName"] for seen in scene.calls(SUBMIT)][1] != old
    assert again.left().key == again.ti.xcoms["panda_task_key"] != scene.ti.xcoms["panda_task_key"]


def test_ended_while_an_earlier_task_is_killed_it_submits_nothing(scene: Scene) -> None:
    """Airflow calls ``on_kill`` in a signal handler and goes on with ``execute``."""
    scene.deferred(operator(command="make"))
    again = next_try(scene)
    ended = operator(command="make")

    def kill(handler: Any, seen: Any) -> None:
        ended.on_kill()
        envelope(0)(handler, seen)

    scene.panda.on(KILL, kill)
    with pytest.raises(AirflowException, match="Airflow ended this worker"):
        ended.execute(again.context)
    assert len(scene.calls(SUBMIT)) == 1
    assert again.left().stage is Stage.ENDED


def test_a_map_is_completed_and_otherwise_kept(scene: Scene) -> None:
    given = {
        **MAP,
        "taskName": "user.me.x",
        "processingType": "mine",
        "transPath": "https://trf/runGen",
        "coreCount": 8,
    }
    deferred = scene.deferred(operator(task_parameters=given, queue="OTHER"))
    parameters = scene.submitted()
    assert {name: parameters[name] for name in ("processingType", "transPath", "coreCount", "site")} == {
        "processingType": "mine", "transPath": "https://trf/runGen", "coreCount": 8, "site": "OTHER",
    }  # fmt: skip
    assert parameters["taskName"] == f"user.me.x-{scene.ti.xcoms['panda_task_key']}"
    # Listed under a type that is not ours, it is asked for alone.
    assert deferred.trigger.serialize()[1]["processing_type"] is None


def test_files_are_uploaded_once_under_their_hash(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "fit.C").write_text("void fit() {}")
    scene.deferred(operator(command="root -b fit.C", files=[str(tmp_path / "fit.C")]))
    (upload,) = scene.calls("file_server/upload_cache_file")
    line = scene.submitted()["jobParameters"][-1]["value"]
    assert f"{scene.panda.url}/cache/sources." in line
    name = line.split("/cache/")[1].split()[0]
    assert name.encode() in upload.body


def test_missing_files_fail_without_a_retry(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(AirflowFailException, match="is not there"):
        operator(command="true", files=[str(tmp_path / "none")]).execute(scene.context)


@pytest.mark.parametrize(
    ("arguments", "seconds"),
    [({"deadline": 60}, 60), ({"execution_timeout": timedelta(hours=1)}, 3600)],
)
def test_deadline(scene: Scene, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], seconds: float) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    trigger = scene.deferred(operator(command="make", **arguments)).trigger.serialize()[1]
    assert trigger["deadline"] - trigger["not_before"] == pytest.approx(seconds - 5, abs=2)


# --- the end ------------------------------------------------------------------------------------------------


def event(outcome: Outcome, *rows: dict[str, Any], unknown: tuple[int, ...] = ()) -> dict[str, Any]:
    tasks = tuple(task_status(each) for each in rows)
    return TasksEvent(outcome=outcome, tasks=tasks, unknown=unknown, task_key="af-key").to_json()


def test_the_value_is_ids_state_counts_and_outputs(scene: Scene) -> None:
    scene.panda.on(ENDED, envelope([{"dataset": {"name": "user.me.out/", "id": 1}, "files": []}]))
    value = operator(command="make").execute_complete(scene.context, event(Outcome.COMPLETE, row("done")))
    assert value == {
        "task_id": 7,
        "name": "some.task",
        "state": "done",
        "files": {"total": 2, "finished": 2, "failed": 0},
        "outputs": ["user.me.out/"],
    }
    (asked,) = scene.calls(ENDED)
    assert asked.query["dataset_types"] == ["output"]


def test_a_success_is_not_lost_when_panda_cannot_be_asked_for_the_outputs(scene: Scene) -> None:
    scene.panda.on(ENDED, status(400, "no"))
    scene.ti.xcoms["panda_output_datasets"] = ["planned"]
    value = operator(command="make").execute_complete(scene.context, event(Outcome.COMPLETE, row("done")))
    assert value["outputs"] == ["planned"]


def test_a_failure_tells_pandas_error_and_the_job_that_failed(scene: Scene) -> None:
    job = {
        "PandaID": 31, "attemptNr": 2, "jobStatus": "failed", "computingSite": "Q", "modificationHost": "node1",
        "exeErrorCode": 3, "exeErrorDiag": "boom", "Files": [],
    }  # fmt: skip
    scene.panda.on("task/get_job_ids", envelope([31]))
    scene.panda.on("job/get_description", envelope([job]))
    came = event(
        Outcome.ENDED, row("failed", errorDialog="<b>no file</b> was processed", nFilesFinished=0, nFilesFailed=2)
    )
    with pytest.raises(GridTaskFailedError) as failed:
        operator(command="make").execute_complete(scene.context, came)
    told = str(failed.value)
    for part in (
        "af-key: PanDA task 7 ended as 'failed', not done: no file was processed",
        "PandaID 31, attempt 2, site Q, host node1: failed, payload 3: boom",
        "0 of 2 finished, 2 failed",
        "pbook, show(7)",
    ):
        assert part in told
    assert failed.value.task_id == 7
    assert not scene.calls(KILL)


def test_a_failure_is_told_also_when_panda_cannot_be_asked_why(scene: Scene) -> None:
    scene.panda.on("task/get_job_ids", status(400, "no"))
    with pytest.raises(GridTaskFailedError, match="ended as 'broken'"):
        operator(command="make").execute_complete(scene.context, event(Outcome.ENDED, row("broken")))


@pytest.mark.parametrize("rows", [[row("running")], []])
def test_past_its_deadline_the_task_is_killed(scene: Scene, rows: list[dict[str, Any]]) -> None:
    scene.panda.on(KILL, envelope(0))
    came = event(Outcome.DEADLINE, *rows, unknown=() if rows else (7,))
    with pytest.raises(DeadlineExceededError, match="7 "):
        operator(command="make").execute_complete(scene.context, came)
    assert [seen.json["task_id"] for seen in scene.calls(KILL)] == [7]


def test_where_airflow_gives_up_the_task_is_killed(scene: Scene) -> None:
    scene.panda.on(KILL, envelope(0))
    scene.ti.xcoms["panda_task_id"] = 7
    with pytest.raises(Exception, match=r"(?i)defer|timeout|trigger"):
        operator(command="make").resume_execution("__fail__", {"error": "Trigger timeout"}, scene.context)
    assert [seen.json["task_id"] for seen in scene.calls(KILL)] == [7]


def test_dag_with_tasks_serialises_for_the_scheduler() -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    with DAG("serialised", schedule=None, start_date=datetime.datetime(2026, 1, 1)) as dag:
        made = operator(command="make {{ ds }}", outputs=["x"])
        PandaTaskOperator(task_id="next", command="use", inputs=made.output["outputs"])
        PandaTaskOperator.partial(task_id="mapped").expand(command=["a", "b"])
    data = DagSerialization.to_dict(dag)
    assert {task["__var"]["task_id"] for task in data["dag"]["tasks"]} == {"task", "next", "mapped"}
    assert dag.get_task("next").upstream_task_ids == {"task"}
