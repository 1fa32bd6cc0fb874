"""IddsWorkflowOperator: what it refuses, submits once, waits for, and makes of the end."""

from __future__ import annotations

import datetime
import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowSensorTimeout

from airflow_provider_panda.exceptions import ConfigurationError, DeadlineExceededError, GridTaskFailedError
from airflow_provider_panda.grid.idds.answers import RequestStatus, TransformStatus
from airflow_provider_panda.operators import earlier
from airflow_provider_panda.operators import workflow as workflow_module
from airflow_provider_panda.operators.earlier import Stage
from airflow_provider_panda.operators.workflow import IddsWorkflowOperator
from airflow_provider_panda.sensors.request import IddsRequestSensor
from airflow_provider_panda.triggers.event import Outcome
from airflow_provider_panda.triggers.request import RequestsEvent
from tests.stack.scripted_panda import ScriptedPanda, Seen, body, envelope, scripted_panda
from tests.unit.grid.idds.test_idds_workflow import functional, newer
from tests.unit.operators.scene import Scene, panda_connection, row

RELAY = "/server/panda/relay_idds_command"
KEY = "idds_workflow_request_id"


def command_of(seen: Seen) -> tuple[str, dict[str, Any]]:
    """Return a relayed command and its arguments."""
    content = json.loads(gzip.decompress(seen.body))
    return content["command_name"], json.loads(content.get("kwargs", "{}"))


class Idds:
    """An iDDS behind the relay of a scripted PanDA: commands by name."""

    def __init__(self, panda: ScriptedPanda) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, Callable[[dict[str, Any]], Any]] = {
            "get_request_id_by_name": lambda _: {},
            "submit": lambda _: 5,
            "abort": lambda _: [[0, {"status": 0, "message": "Command registered successfully"}]],
            "get_requests": lambda _: [],
        }
        panda.on(RELAY, self._answer)

    def _answer(self, handler: Any, seen: Seen) -> None:
        name, arguments = command_of(seen)
        self.asked.append((name, arguments))
        body(json.dumps([True, self.answers[name](arguments)]))(handler, seen)

    def names(self) -> list[str]:
        return [name for name, _ in self.asked]


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    with scripted_panda() as panda:
        monkeypatch.setenv("AIRFLOW_CONN_PANDA_DEFAULT", panda_connection(panda.url))
        panda.on("task/kill", envelope(0))
        yield Scene(panda)


@pytest.fixture
def idds(scene: Scene) -> Idds:
    return Idds(scene.panda)


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Requests that were ended, in place of ending them."""
    ended: list[int] = []
    monkeypatch.setattr(workflow_module, "end_now", lambda connection, request_id: ended.append(request_id))
    return ended


def operator(workflow: Any = None, **arguments: Any) -> IddsWorkflowOperator:
    return IddsWorkflowOperator(task_id="task", workflow=newer() if workflow is None else workflow, **arguments)


def listed(status: str, *transforms: tuple[str, str, int | None], request_id: int = 5) -> list[dict[str, Any]]:
    """Return a request as iDDS lists it."""
    head = {"request_id": request_id, "name": "w", "status": status, "errors": None}
    return [
        {**head, "transform_id": i, "transform_name": n, "transform_status": s, "transform_workload_id": t}
        for i, (n, s, t) in enumerate(transforms, 1)
    ] or [head]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"workflow": {"class": "Popen"}}, "no serialised iDDS workflow"),
        ({"success_states": ["done"]}, "'done' is not a state in which an iDDS request ends"),
        ({"success_states": ["Transforming"]}, "'Transforming' is not a state in which"),
        ({"deadline": -1}, "not positive"),
    ],
)
def test_wrong_arguments_are_refused_when_the_dag_is_parsed(arguments: Any, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        operator(**arguments)


@pytest.mark.parametrize("given", [functional("iWorkflowLocal"), "{broken", Path("/no/such/file.json")])
def test_what_only_the_worker_sees_fails_without_a_retry(scene: Scene, given: Any) -> None:
    with pytest.raises(AirflowFailException, match="argument workflow"):
        operator(given).execute(scene.context)


@pytest.mark.parametrize("form", [lambda: newer(), json.dumps(newer()), newer()], ids=["function", "text", "mapping"])
def test_a_workflow_is_submitted_and_waited_for(scene: Scene, idds: Idds, form: Any) -> None:
    deferred = scene.deferred(operator(form, deadline=60))
    assert idds.names() == ["get_request_id_by_name", "submit"]
    key = scene.ti.xcoms["panda_task_key"]
    assert idds.asked[1][1]["workflow"]["attributes"]["template"]["attributes"]["_name"] == f"w-{key}"
    assert scene.ti.xcoms == {"panda_task_key": key, KEY: 5}
    left = scene.left()
    assert (left.key, left.request_id, left.stage) == (key, 5, Stage.DEFERRING)
    path, trigger = deferred.trigger.serialize()
    assert path == "airflow_provider_panda.triggers.request.IddsRequestTrigger"
    assert (trigger["request_ids"], trigger["states"], trigger["task_key"]) == ([5], ["Finished"], key)
    assert trigger["deadline"] > trigger["not_before"]


def test_executed_twice_a_try_submits_once(scene: Scene, idds: Idds) -> None:
    scene.deferred(operator())
    idds.answers["get_request_id_by_name"] = lambda asked: {asked["name"]: 5}
    scene.deferred(operator())
    assert idds.names().count("submit") == 1


def test_a_further_try_ends_what_the_last_one_left(scene: Scene, idds: Idds, ends: list[int]) -> None:
    scene.deferred(operator())
    again = Scene(scene.panda, scene.store)
    idds.answers["submit"] = lambda _: 6
    again.deferred(operator())
    assert ends == [5]
    assert again.left().request_id == 6


def killed_before_the_deferral(scene: Scene, *, ids: bool = False) -> None:
    """Make the store as a worker leaves it that was killed after its submission."""
    left = scene.left()
    earlier.write(
        scene.context,  # type: ignore[arg-type]
        replace(left, stage=Stage.SUBMITTING, request_id=left.request_id if ids else None),
    )


def test_a_request_that_was_never_waited_for_is_taken_up(scene: Scene, idds: Idds, ends: list[int]) -> None:
    scene.deferred(operator())
    killed_before_the_deferral(scene)
    idds.answers["get_request_id_by_name"] = lambda asked: {asked["name"]: 5}
    idds.answers["get_requests"] = lambda _: listed("Transforming")
    again = Scene(scene.panda, scene.store)
    trigger = again.deferred(operator()).trigger.serialize()[1]
    assert (trigger["request_ids"], trigger["task_key"]) == ([5], scene.ti.xcoms["panda_task_key"])
    assert again.ti.xcoms == scene.ti.xcoms
    assert (idds.names().count("submit"), ends) == (1, [])


@pytest.mark.parametrize(
    ("status", "workflow"), [("Cancelled", None), ("ToCancel", None), ("Transforming", "another"), ("Failed", None)]
)
def test_one_that_is_over_or_another_is_ended(
    scene: Scene, idds: Idds, ends: list[int], status: str, workflow: str | None
) -> None:
    scene.deferred(operator())
    killed_before_the_deferral(scene)
    name = scene.left().name
    idds.answers["get_request_id_by_name"] = lambda asked: {name: 5} if asked["name"] == name else {}
    idds.answers["get_requests"] = lambda _: listed(status)
    idds.answers["submit"] = lambda _: 6
    other = newer()
    other["attributes"]["template"]["attributes"]["_campaign"] = workflow or other["attributes"].get("_campaign")
    again = Scene(scene.panda, scene.store)
    again.deferred(operator(other))
    assert ends == [5]
    assert again.left().request_id == 6


def test_ending_aborts_and_kills(scene: Scene, idds: Idds) -> None:
    from airflow_provider_panda.hooks.panda import PandaHook

    idds.answers["get_requests"] = lambda _: listed("Cancelled", ("a", "Transforming", 70), ("b", "Finished", 71))
    assert workflow_module.end_now(PandaHook().get_conn(), 5) == [70]
    assert idds.names() == ["abort", "get_requests"]
    assert [seen.json["task_id"] for seen in scene.calls("task/kill")] == [70]


# --- the end ------------------------------------------------------------------------------------------------


def request(status: str, *transforms: tuple[str, str, int | None], errors: str | None = None) -> RequestStatus:
    made = tuple(
        TransformStatus(transform_id=i, name=n, status=s, task_id=t) for i, (n, s, t) in enumerate(transforms, 1)
    )
    return RequestStatus(request_id=5, name="w", status=status, errors=errors, transforms=made)


def event(outcome: Outcome, *requests: RequestStatus, unknown: tuple[int, ...] = ()) -> dict[str, Any]:
    return RequestsEvent(outcome=outcome, requests=requests, unknown=unknown, task_key="af-key").to_json()


def test_the_value_is_the_requests_transforms(scene: Scene) -> None:
    came = event(Outcome.COMPLETE, request("Finished", ("gen", "Finished", 70), ("reco", "Finished", None)))
    assert operator().execute_complete(scene.context, came) == {
        "request_id": 5,
        "status": "Finished",
        "transforms": [
            {"id": 1, "name": "gen", "status": "Finished", "task_id": 70},
            {"id": 2, "name": "reco", "status": "Finished", "task_id": None},
        ],
    }


def test_transforms_that_no_event_could_carry_are_asked_for(scene: Scene, idds: Idds) -> None:
    many = request("Finished", *(("t", "Finished", i) for i in range(1000)))
    idds.answers["get_requests"] = lambda _: listed("Finished", *(("t", "Finished", i) for i in range(1, 1001)))
    value = operator().execute_complete(scene.context, event(Outcome.COMPLETE, many))
    assert len(value["transforms"]) == 1000


def test_a_failure_tells_what_idds_keeps_to_itself(scene: Scene, ends: list[int]) -> None:
    scene.panda.on("task/get_detailed_info", envelope(row("failed", 71, errorDialog="no queue for it")))
    scene.panda.on("task/get_job_ids", envelope([]))
    came = event(Outcome.ENDED, request("SubFinished", ("gen", "Finished", 70), ("reco", "Failed", 71)))
    with pytest.raises(GridTaskFailedError) as failed:
        operator().execute_complete(scene.context, came)
    told = str(failed.value)
    for part in (
        "af-key: iDDS request 5 ended as 'SubFinished', not Finished",
        "PanDA task 71 is 'failed': no queue for it",
        "1 of 2 transform(s) did not finish: reco (Failed)",
    ):
        assert part in told
    assert failed.value.task_id == 71
    assert ends == [5]


def test_idds_own_words_come_first(scene: Scene, ends: list[int]) -> None:
    came = event(Outcome.ENDED, request("Failed", errors="submit_err: no attribute"))
    with pytest.raises(GridTaskFailedError, match="not Finished: submit_err: no attribute"):
        operator().execute_complete(scene.context, came)


@pytest.mark.parametrize("shown", [True, False])
def test_past_its_deadline_the_request_is_ended(scene: Scene, ends: list[int], shown: bool) -> None:
    requests = [request("Transforming", ("a", "Transforming", 70))] if shown else []
    came = event(Outcome.DEADLINE, *requests, unknown=() if shown else (5,))
    with pytest.raises(DeadlineExceededError, match="5 "):
        operator().execute_complete(scene.context, came)
    assert ends == [5]


def test_where_airflow_gives_up_the_request_is_ended(scene: Scene, ends: list[int]) -> None:
    scene.ti.xcoms[KEY] = 5
    with pytest.raises(Exception, match=r"(?i)defer|timeout|trigger"):
        operator().resume_execution("__fail__", {"error": "Trigger timeout"}, scene.context)
    assert ends == [5]


def test_an_object_is_no_template_and_makes_no_new_dag_version() -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    class Made:
        pass

    def serialised() -> Any:
        with DAG("d", schedule=None, start_date=datetime.datetime(2026, 1, 1)) as dag:
            operator(Made())
            operator_of_text = IddsWorkflowOperator(task_id="text", workflow="{{ params.workflow }}")
        assert operator_of_text.workflow == "{{ params.workflow }}"
        return DagSerialization.to_dict(dag)["dag"]["tasks"]

    assert json.dumps(serialised(), sort_keys=True, default=str) == json.dumps(
        serialised(), sort_keys=True, default=str
    )


# --- the sensor ---------------------------------------------------------------------------------------------


def sensor(request_id: Any = 5, **arguments: Any) -> IddsRequestSensor:
    return IddsRequestSensor(task_id="sensor", request_id=request_id, **arguments)


def test_sensor_of_a_request_that_is_there_already(scene: Scene, idds: Idds) -> None:
    idds.answers["get_requests"] = lambda asked: listed(
        "SubFinished", ("a", "Failed", 7), request_id=asked["request_id"]
    )
    assert sensor({"request_id": 5}).execute(scene.context)["status"] == "SubFinished"
    assert [value["request_id"] for value in sensor("5,6").execute(scene.context)] == [5, 6]


def test_sensor_defers_otherwise(scene: Scene, idds: Idds) -> None:
    idds.answers["get_requests"] = lambda _: listed("Transforming")
    path, trigger = scene.deferred(sensor(timeout=60)).trigger.serialize()
    assert path == "airflow_provider_panda.triggers.request.IddsRequestTrigger"
    assert (trigger["request_ids"], trigger["task_key"]) == ([5], None)


def test_sensor_fails_with_its_request_and_ends_nothing(scene: Scene, ends: list[int]) -> None:
    for outcome, requests, unknown, error, told in (
        (Outcome.ENDED, [request("Cancelled")], (), AirflowException, "ended as 'Cancelled'"),
        (Outcome.FAILED, [], (5,), AirflowException, "does not know request 5"),
        (Outcome.DEADLINE, [request("Transforming")], (), AirflowSensorTimeout, "5 is 'Transforming'"),
    ):
        came = event(outcome, *requests, unknown=unknown)
        with pytest.raises(error, match=told):
            sensor().resume_execution("execute_complete", {"event": came}, scene.context)
    assert ends == []


def test_sensor_refuses_what_is_no_id_or_state(scene: Scene) -> None:
    with pytest.raises(AirflowFailException, match="argument request_id: 'x' is no id"):
        sensor("x").execute(scene.context)
    with pytest.raises(ConfigurationError, match="'done' is not a state of an iDDS request"):
        sensor(states=["done"])
