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
from airflow_provider_panda.reaping.reaper import Harvest, reaper_of
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


async def test_an_orphan_is_killed_and_its_request_closed_and_no_other() -> None:
    over, runs = Call(sleep_long, conn_id=DIRECT), Call(sleep_long, conn_id=DIRECT)
    for call in (over, runs):
        await asyncio.to_thread(call.submit)
    task_ids = {call: await appeared(call) for call in (over, runs)}
    hook = PandaHook(DIRECT)
    reaper = reaper_of(hook, INSTANCE, Over(over), grace=0)

    def reap() -> Harvest:
        return reaper.reap()

    harvest = await asyncio.to_thread(reap)
    standing = {finding.task.task_id: finding.standing.value for finding in harvest.findings}
    assert (standing[task_ids[over]], standing[task_ids[runs]]) == ("orphan", "unknown")
    assert harvest.killed == {task_ids[over]}
    closed = set(harvest.closed)
    end = time.monotonic() + 120
    while not closed:
        assert over.ti.xcoms["idds_request_id"] in harvest.open_works
        assert time.monotonic() < end, (over.request(), hook.grid().status(task_ids[over]))
        await asyncio.sleep(1)
        harvest = await asyncio.to_thread(reap)
        closed |= set(harvest.closed)
    assert closed == {over.ti.xcoms["idds_request_id"]}
    assert runs.request().takes_works
    hook.grid().kill(task_ids[runs])


def test_requests_of_other_instances_are_not_listed() -> None:
    grid = PandaHook(DIRECT).idds_grid()
    other = DagRun(instance="zzzz", dag_id="d", run_id="r")
    made = grid.request_for(other, task_key("zzzz", "x"))
    try:
        assert made not in grid.requests_of_instance(INSTANCE).values()
        assert list(grid.requests_of_instance("zzzz").values()) == [made]
    finally:
        grid.close_run(other)
