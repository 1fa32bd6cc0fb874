"""The doing: in which order is looked, what is looked at twice, what is killed and told."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import pytest

from airflow_provider_panda.exceptions import AirflowUnreadableError, GridRefusedError, GridUnreachableError
from airflow_provider_panda.grid.answers import KillOutcome
from airflow_provider_panda.grid.idds.runs import RunClosing
from airflow_provider_panda.grid.names import request_name, run_mark
from airflow_provider_panda.grid.task import TaskStatus, phase_of, task_key
from airflow_provider_panda.reaping.orphans import Attempt, GridTask, Present, Standing
from airflow_provider_panda.reaping.reaper import Harvest, Reaper
from airflow_provider_panda.triggers.looks import Place

NOW = 1_000_000.0
OURS = "abcd"


def listed(task_id: int, name: str, *, instance: str = OURS, status: str = "running") -> TaskStatus:
    key = task_key(instance, name)
    return TaskStatus(
        task_id=task_id, name=f"airflow-d-t-r-{key}", status=status, phase=phase_of(status), created=NOW - 5000
    )


class World:
    """PanDA, iDDS and Airflow, and the order in which they are asked."""

    def __init__(self) -> None:
        self.tasks: list[TaskStatus] = []
        self.states: dict[str, str] = {}
        """States of task instances by name."""
        self.asked: list[str] = []
        self.killed: list[int] = []
        self.refusals: dict[int, Exception] = {}
        self.before_kills: dict[str, str] = {}
        """States that change after the first look."""
        self.requests: dict[str, int] = {}
        self.looked_at: list[int] = []
        self.runs: list[tuple[str, str]] = []
        self.trouble: Exception | None = None

    def listing(self, kind: str) -> list[TaskStatus]:
        assert kind == "airflow-abcd"
        self.asked.append("PanDA")
        return self.tasks

    def attempts(self, tasks: Collection[GridTask]) -> dict[str, Attempt]:
        self.asked.append("attempts")
        if self.trouble is not None:
            raise self.trouble
        known = {task_key(OURS, name): Attempt(place=Place("d", "r", name)) for name in self.states}
        return {task.key: known[task.key] for task in tasks if task.key in known}

    def present(self, places: Collection[Place]) -> dict[Place, Present]:
        self.asked.append(f"present {len(places)}")
        found = {
            place: Present(
                key=task_key(OURS, place.task_id),
                state=self.states[place.task_id],
                run_goes_on=True,
                ended=NOW - 1000,
                task_key=task_key(OURS, place.task_id),
            )
            for place in places
        }
        self.states.update(self.before_kills)
        return found

    def ended_runs(self, since: float) -> list[tuple[str, str]]:
        assert since < NOW
        return self.runs

    def kill(self, task_id: int) -> KillOutcome:
        if task_id in self.refusals:
            raise self.refusals[task_id]
        self.killed.append(task_id)
        return KillOutcome.REGISTERED

    def requests_of_instance(self, instance: str) -> dict[str, int]:
        return self.requests

    def close_ended(self, request_ids: Any) -> RunClosing:
        self.looked_at = list(request_ids)
        return RunClosing(closed=tuple(self.looked_at[:1]), waiting=tuple(self.looked_at[1:]))

    def reap(self, *, idds: bool = False, **options: bool) -> Harvest:
        reaper = Reaper(
            OURS, listing=self.listing, killer=self, witness=self, requests=self if idds else None, clock=lambda: NOW
        )
        return reaper.reap(**options)


@pytest.fixture
def world() -> World:
    made = World()
    made.tasks = [
        listed(1, "failed"),
        listed(2, "waiting"),
        listed(3, "deleted"),
        listed(4, "failed", instance="abce"),
        listed(5, "over", status="aborted"),
    ]
    made.states = {"failed": "failed", "waiting": "deferred", "over": "failed"}
    return made


def test_orphans_are_killed_and_nothing_else(world: World) -> None:
    harvest = world.reap()
    assert world.killed == [1]
    assert [finding.standing for finding in harvest.findings] == [Standing.ORPHAN, Standing.AWAITED, Standing.UNKNOWN]
    assert harvest.good


def test_panda_is_asked_before_airflow(world: World) -> None:
    """What is submitted between the two is then not among the tasks that are judged."""
    world.reap(dry_run=True)
    assert world.asked == ["PanDA", "attempts", "present 2"]


def test_a_dry_run_kills_nothing(world: World) -> None:
    harvest = world.reap(dry_run=True, unknown=True, idds=True)
    assert (world.killed, world.looked_at) == ([], [])
    assert [line.split()[0] for line in harvest.lines()[:-1]] == ["orphan", "unknown"]


def test_unknown_tasks_are_killed_only_when_asked(world: World) -> None:
    world.reap(unknown=True)
    assert world.killed == [1, 3]


def test_an_orphan_that_somebody_waits_for_again_is_spared(world: World) -> None:
    world.before_kills = {"failed": "deferred"}
    harvest = world.reap()
    assert world.killed == []
    assert harvest.of(Standing.ORPHAN) == []


def test_what_cannot_be_killed_is_told_and_the_others_go_on(world: World) -> None:
    world.tasks += [listed(6, "second")]
    world.states["second"] = "success"
    world.refusals[1] = GridRefusedError("no")
    harvest = world.reap()
    assert world.killed == [6]
    assert not harvest.good
    assert any(line.startswith("not killed  1 ") for line in harvest.lines())
    told = json.loads(json.dumps(harvest.to_json()))
    assert told["ok"] is False
    assert [task["killed"] for task in told["tasks"]] == [False, False, False, True]
    assert told["tasks"][0]["error"] == "no"


def test_it_stops_when_panda_goes_away(world: World) -> None:
    for number in range(10, 20):
        world.tasks.append(listed(number, f"t{number}"))
        world.states[f"t{number}"] = "failed"
        world.refusals[number] = GridUnreachableError("gone")
    harvest = world.reap()
    assert len(harvest.failed) == 3
    assert "the rest is left" in harvest.lines()[-2]


def test_nothing_is_killed_if_airflow_does_not_answer(world: World) -> None:
    world.trouble = AirflowUnreadableError("the database is away")
    with pytest.raises(AirflowUnreadableError):
        world.reap(unknown=True)
    assert world.killed == []


def test_requests_of_ended_runs_are_closed_and_no_others(world: World) -> None:
    def of(run_id: str, instance: str = OURS) -> str:
        return request_name("d", run_id, run_mark(instance, "d", run_id), 1, task_key(instance, run_id))

    world.requests = {of("ended"): 11, of("also ended"): 12, of("running"): 13, of("ended", "abce"): 14, "other": 15}
    world.runs = [("d", "ended"), ("d", "also ended"), ("d", "without a request")]
    harvest = world.reap(idds=True)
    assert world.looked_at == [11, 12]
    assert (harvest.closed, harvest.open_works) == ((11,), (12,))
    assert "1 closed, 1 left open" in harvest.lines()[-1]
