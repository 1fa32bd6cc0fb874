"""Orphans that came through the real iDDS, and requests that the end of their DAG run left open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterator

import pytest

from airflow_provider_panda.grid.idds.runs import DagRun
from airflow_provider_panda.grid.task import instance_id, task_key
from airflow_provider_panda.hooks.panda import PandaHook
from airflow_provider_panda.reaping.orphans import Attempt, GridTask, Present
from airflow_provider_panda.reaping.reaper import reaper_of
from airflow_provider_panda.triggers.looks import Place
from tests.integration.through_idds.calls import DIRECT, SECRET, Call, close_requests, use
from tests.stack.stack import Stack

INSTANCE = instance_id(SECRET)


@pytest.fixture(autouse=True)
def connected(idds_stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    use(idds_stack.access, monkeypatch)
    yield idds_stack
    close_requests()


class Over:
    """An Airflow in which the run of one call has failed, and which knows no other."""

    def __init__(self, call: Call) -> None:
        self.key = task_key(INSTANCE, str(call.ti.id))
        self.place = Place(call.ti.dag_id, call.ti.run_id, call.ti.task_id)

    def attempts(self, tasks: Collection[GridTask]) -> dict[str, Attempt]:
        return {self.key: Attempt(place=self.place)}

    def present(self, places: Collection[Place]) -> dict[Place, Present]:
        return {self.place: Present(key=self.key, state="failed", run_goes_on=False, ended=0.0)}

    def ended_runs(self, since: float) -> list[tuple[str, str]]:
        return [(self.place.dag_id, self.place.run_id)]


def add(a: int, b: int) -> int:
    return a + b


def sleep_long() -> None:
    time.sleep(900)


async def appeared(call: Call) -> int:
    """Return the PanDA task of a call once iDDS tells it."""
    async with asyncio.timeout(120):
        while True:
            xcoms = call.ti.xcoms
            found = await asyncio.to_thread(call.grid.task_id, xcoms["idds_request_id"], xcoms["idds_transform_id"])
            if found is not None:
                return found
            await asyncio.sleep(0.5)


async def test_an_orphan_is_killed_and_no_other() -> None:
    over, runs = Call(sleep_long, conn_id=DIRECT), Call(sleep_long, conn_id=DIRECT)
    for call in (over, runs):
        await asyncio.to_thread(call.submit)
    task_ids = {call: await appeared(call) for call in (over, runs)}
    hook = PandaHook(DIRECT)
    harvest = await asyncio.to_thread(reaper_of(hook, INSTANCE, Over(over), grace=0).reap)
    standing = {finding.task.task_id: finding.standing.value for finding in harvest.findings}
    assert (standing[task_ids[over]], standing[task_ids[runs]]) == ("orphan", "unknown")
    assert harvest.killed == {task_ids[over]}
    # iDDS would abort the works of a request that is closed while they run, and never close it.
    assert (harvest.closed, harvest.open_works) == ((), (over.ti.xcoms["idds_request_id"],))
    assert harvest.good
    hook.grid().kill(task_ids[runs])


async def test_what_an_ended_run_left_open_is_closed_and_nothing_else() -> None:
    over, runs = Call(add, conn_id=DIRECT, op_args=[1, 2]), Call(add, conn_id=DIRECT, op_args=[3, 4])
    assert await asyncio.gather(over.value(), runs.value()) == [3, 7]
    # With its grace: a task that Airflow finished early still runs, and iDDS does not end the work of a killed one.
    reaper = reaper_of(PandaHook(DIRECT), INSTANCE, Over(over))
    request_id = over.ti.xcoms["idds_request_id"]
    end = time.monotonic() + 120
    while not (harvest := await asyncio.to_thread(reaper.reap)).closed:
        assert harvest.open_works == (request_id,)  # Airflow has the value before iDDS has ended the work
        assert harvest.killed == set()
        assert time.monotonic() < end, over.request()
        await asyncio.sleep(0.5)
    assert harvest.closed == (request_id,)
    assert runs.request().takes_works


def test_requests_of_other_instances_are_not_listed() -> None:
    grid = PandaHook(DIRECT).idds_grid()
    other = DagRun(instance="zzzz", dag_id="d", run_id="r")
    made = grid.request_for(other, task_key("zzzz", "x"))
    try:
        assert made not in grid.requests_of_instance(INSTANCE).values()
        assert list(grid.requests_of_instance("zzzz").values()) == [made]
    finally:
        grid.close_run(other)
