"""The decision of the task trigger, and what crosses its seams."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_panda.exceptions import TaskNotFoundError
from airflow_provider_panda.grid.answers import task_status
from airflow_provider_panda.grid.foreign import ForeignTasks
from airflow_provider_panda.grid.task import TaskStatus
from airflow_provider_panda.triggers.event import Outcome
from airflow_provider_panda.triggers.task import PandaTaskTrigger, TasksEvent, judge


def of(status: str | None, task_id: int = 1) -> TaskStatus | None:
    return None if status is None else task_status({"jediTaskID": task_id, "taskName": "t", "status": status})


@pytest.mark.parametrize(
    ("states", "accepted", "outcome"),
    [
        ([None], ["done"], None),
        (["running"], ["done"], None),
        (["prepared"], ["done"], None),
        (["done"], ["done"], Outcome.COMPLETE),
        (["finished"], ["done"], Outcome.ENDED),
        (["finished"], ["done", "finished"], Outcome.COMPLETE),
        (["running"], ["running"], Outcome.COMPLETE),
        (["done"], ["running"], Outcome.ENDED),
        (["broken"], ["done"], Outcome.ENDED),
        (["aborted"], ["aborted"], Outcome.COMPLETE),
        (["exhausted"], ["done"], Outcome.ENDED),
        (["a state of a newer server"], ["done"], None),
        (["done", "running"], ["done"], None),
        (["done", None], ["done"], None),
        (["done", "done"], ["done"], Outcome.COMPLETE),
        (["running", "failed"], ["done"], Outcome.ENDED),
        ([None, "failed"], ["done"], Outcome.ENDED),
    ],
)
def test_judgement(states: list[str | None], accepted: list[str], outcome: Outcome | None) -> None:
    assert judge({i: of(state, i) for i, state in enumerate(states)}, accepted) is outcome


def test_event_crosses_as_json() -> None:
    done = of("done", 3)
    assert done is not None
    event = TasksEvent(outcome=Outcome.DEADLINE, tasks=(done,), unknown=(4,), task_key="k")
    assert TasksEvent.from_json(json.loads(json.dumps(event.to_json()))) == event
    newer = {**event.to_json(), "more": 1}
    newer["tasks"][0]["more"] = 1
    assert TasksEvent.from_json(newer) == event


def test_trigger_crosses_as_json() -> None:
    trigger = PandaTaskTrigger(panda_conn_id="c", task_ids=[1], states=["done"], task_key="k", deadline=5.0)
    path, fields = trigger.serialize()
    assert path.endswith("triggers.task.PandaTaskTrigger")
    again = PandaTaskTrigger(**json.loads(json.dumps(fields)), of_a_newer_provider=True)
    assert again.serialize() == trigger.serialize()


class Reader:
    """A PanDA that knows some tasks."""

    def __init__(self, known: dict[int, str]) -> None:
        self.known, self.asked = known, []  # type: tuple[dict[int, str], list[int]]

    async def status(self, task_id: int) -> TaskStatus:
        self.asked.append(task_id)
        if task_id not in self.known:
            raise TaskNotFoundError("none")
        found = of(self.known[task_id], task_id)
        assert found is not None
        return found


async def test_who_waits_for_the_same_task_shares_a_round() -> None:
    import asyncio

    reader = Reader({1: "running", 2: "done"})
    foreign = ForeignTasks(reader, interval=0.01)
    told: list[Any] = []
    both = asyncio.Event()

    def take(status: TaskStatus) -> None:
        told.append(status.task_id)
        if {1, 2} <= set(told):
            both.set()

    with foreign.waiting(1, take), foreign.waiting(1, take), foreign.waiting(2, take), foreign.waiting(3, take) as lost:
        await asyncio.wait_for(both.wait(), 10)
        first_round = reader.asked[:3]
        while lost.missed < 3:
            await asyncio.sleep(0.01)
    assert first_round == [1, 2, 3]
    assert lost.latest is None
    assert await foreign.statuses("") == []
