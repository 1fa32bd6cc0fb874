"""The decision of the request trigger, and what crosses its seams."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Any

import pytest

from airflow_provider_panda.exceptions import GridUnreachableError
from airflow_provider_panda.grid.idds.answers import RequestStatus, TransformStatus
from airflow_provider_panda.grid.retry import RetryPolicy
from airflow_provider_panda.triggers import kill
from airflow_provider_panda.triggers import request as module
from airflow_provider_panda.triggers.event import Outcome
from airflow_provider_panda.triggers.request import TRANSFORMS_TOLD, IddsRequestTrigger, RequestsEvent, judge
from tests.unit.triggers.scripted import REQUEST, TASK, Idds, Panda, shared, transform
from tests.unit.triggers.scripted import request as listing


def of(status: str | None, request_id: int = 1, transforms: int = 1) -> RequestStatus | None:
    if status is None:
        return None
    made = tuple(TransformStatus(transform_id=i, name="t", status=status, task_id=i or None) for i in range(transforms))
    return RequestStatus(request_id=request_id, name="r", status=status, errors="e", transforms=made)


@pytest.mark.parametrize(
    ("states", "accepted", "outcome"),
    [
        ([None], ["Finished"], None),
        (["Transforming"], ["Finished"], None),
        (["Finished"], ["Finished"], Outcome.COMPLETE),
        (["SubFinished"], ["Finished"], Outcome.ENDED),
        (["SubFinished"], ["Finished", "SubFinished"], Outcome.COMPLETE),
        (["Failed"], ["Finished"], Outcome.ENDED),
        (["Cancelled"], ["Finished"], Outcome.ENDED),
        (["Transforming"], ["Transforming"], Outcome.COMPLETE),
        (["a state of a newer server"], ["Finished"], None),
        (["Finished", "Transforming"], ["Finished"], None),
        (["Finished", None], ["Finished"], None),
        (["Transforming", "Failed"], ["Finished"], Outcome.ENDED),
    ],
)
def test_judgement(states: list[str | None], accepted: list[str], outcome: Outcome | None) -> None:
    assert judge({i: of(state, i) for i, state in enumerate(states)}, accepted) is outcome


def test_event_crosses_as_json() -> None:
    request = of("Finished", 3, transforms=2)
    assert request is not None
    event = RequestsEvent(outcome=Outcome.COMPLETE, requests=(request,), unknown=(4,), task_key="k")
    assert RequestsEvent.from_json(json.loads(json.dumps(event.to_json()))) == event
    newer = {**event.to_json(), "more": 1}
    newer["requests"][0]["more"] = newer["requests"][0]["transforms"][0]["more"] = 1
    assert RequestsEvent.from_json(newer) == event


def test_an_event_carries_no_thousand_transforms() -> None:
    request = of("Finished", transforms=TRANSFORMS_TOLD + 1)
    assert request is not None
    came = RequestsEvent.from_json(RequestsEvent(outcome=Outcome.COMPLETE, requests=(request,)).to_json())
    assert came.shortened
    assert came.requests[0].transforms == ()


def test_trigger_crosses_as_json() -> None:
    trigger = IddsRequestTrigger(panda_conn_id="c", request_ids=[1], states=["Finished"], task_key="k", deadline=5.0)
    path, fields = trigger.serialize()
    assert path.endswith("triggers.request.IddsRequestTrigger")
    again = IddsRequestTrigger(**json.loads(json.dumps(fields)), of_a_newer_provider=True)
    assert again.serialize() == trigger.serialize()


async def test_a_request_is_ended_again_until_all_its_tasks_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a request goes on where one kill fails, and PanDA may be away for minutes."""
    panda = Panda()
    panda.refusals = [GridUnreachableError("down")]
    aborted: list[int] = []

    class Ended(Idds):
        async def abort_request(self, request_id: int) -> None:
            aborted.append(request_id)

    idds = Ended(dataclasses.replace(listing(transform("Cancelled", task_id=TASK)), status="Cancelled"))
    connection = shared(idds, panda)

    async def look_up(conn_id: str) -> Any:
        return connection

    monkeypatch.setattr(module, "shared_connection", look_up)
    monkeypatch.setattr(kill, "KILLS", RetryPolicy(attempts=3, first=0.01, longest=0.01))
    trigger = IddsRequestTrigger(panda_conn_id="c", request_ids=[REQUEST], states=["Finished"], task_key="k")
    monkeypatch.setattr(IddsRequestTrigger, "task_instance", None, raising=False)
    async with asyncio.timeout(30):
        await trigger.on_kill()
    assert (aborted, panda.killed) == ([REQUEST, REQUEST], [TASK])
