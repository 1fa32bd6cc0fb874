"""For every captured exchange, the situation in which it took place: a function that brings a grid into it."""

from __future__ import annotations

import json
import struct
import uuid
from collections.abc import Callable
from typing import Any

import httpx

from .samples import exchanges
from .world import EMPTY_QUEUE, PILOT_QUEUE, QUEUE, Replay, World, sandbox

Situation = Callable[[World], Replay]
SITUATIONS: dict[str, Situation] = {}


def situation(*names: str) -> Callable[[Situation], Situation]:
    """Register the situation of captured exchanges."""

    def register(function: Situation) -> Situation:
        for name in names:
            assert name not in SITUATIONS, name
            SITUATIONS[name] = function
        return function

    return register


@situation(
    "system.is_alive#0",
    "cache.nosuch.tgz#0",
    "file_server.validate_cache_file#0",
    "job.get_description#1",
    "pilot.get_job_status#0",
    "server.panda.execute_idds_workflow_command#0",
    "server.panda.relay_idds_command#0",
    "task.get_status#0",
    "task.get_detailed_info#1",
    "task.kill#0",
    "task.finish#0",
    "task.retry#0",
    "creds.set_user_secrets#0",
)
def as_it_is(world: World) -> Replay:
    """The grid need not be in any state: the request names nothing that exists."""
    return Replay(world.grid)


@situation("server.panda.relay_idds_command#1", "server.panda.relay_idds_command#2")
def an_idds_is_configured(world: World) -> Replay:
    """What answers here is a script; against a real iDDS the relay is tested in tests/stack."""
    return Replay(world.unregistered)


@situation("creds.get_user_secrets#0")
def one_secret_is_set(world: World) -> Replay:
    world.grid.post("creds/set_user_secrets", key=None, value=None)
    world.grid.post("creds/set_user_secrets", key="mykey", value="myval")
    return Replay(world.grid)


# --- files ---------------------------------------------------------------------------------------------------


def _put(world: World, name: str, content: bytes) -> None:
    headers = {"Authorization": f"Bearer {world.grid.token}", "Origin": "wlcg", "Accept": "application/json"}
    url = f"{world.grid.url}/api/v1/file_server/upload_cache_file"
    answer = httpx.post(url, headers=headers, files={"file": (name, content)}, timeout=60).json()
    assert answer["success"] or answer["message"] == "ERROR: cannot overwrite file"


@situation("cache.sources.test-1.tar.gz#0", "file_server.upload_cache_file#1")
def the_file_is_there(world: World) -> Replay:
    _put(world, "sources.test-1.tar.gz", sandbox(1))
    return Replay(world.grid, upload=sandbox(1))


@situation("file_server.upload_cache_file#2")
def the_file_is_new(world: World) -> Replay:
    return Replay(world.grid, names={"test-2": f"test-{uuid.uuid4().hex}"}, upload=sandbox(2))


@situation("file_server.validate_cache_file#1")
def a_file_of_this_checksum_is_there(world: World) -> Replay:
    content = sandbox(3)
    _put(world, "sources.test-2.tar.gz", content)
    checksum = struct.unpack("<II", content[-8:])[0]
    return Replay(world.grid, ids={2023: len(content), 1388167144: checksum})


# --- tasks ---------------------------------------------------------------------------------------------------


@situation("task.submit#0")
def the_name_is_new(world: World) -> Replay:
    return _named("task.submit#0", world.grid, world.parameters()["taskName"])


def _named(sample: str, grid: Any, name: str) -> Replay:
    captured = exchanges()[sample].body["task_parameters"]["taskName"]
    return Replay(grid, names={captured: name})


@situation("task.submit#1")
def a_task_of_this_name_is_not_registered_yet(world: World) -> Replay:
    params = world.parameters(uniqueTaskName=True)
    world.unregistered.post("task/submit", task_parameters=params, parent_tid=None)
    return _named("task.submit#1", world.unregistered, params["taskName"])


@situation("task.submit#2")
def a_task_of_this_name_runs(world: World) -> Replay:
    params = world.parameters(uniqueTaskName=True)
    world.running(params)
    return _named("task.submit#2", world.grid, params["taskName"])


@situation("task.kill#1")
def a_task_with_a_waiting_job(world: World) -> Replay:
    return Replay(world.grid, ids={4: world.running()})


@situation("task.kill#2", "task.retry#2")
def a_task_is_done(world: World) -> Replay:
    return Replay(world.grid, ids={1: world.done})


@situation("task.finish#1")
def a_task_without_a_queue(world: World) -> Replay:
    task_id = world.submit(world.parameters(site="NO_SUCH_SITE"))
    world.grid.wait(task_id, "pending")
    return Replay(world.grid, ids={6: task_id})


@situation("task.pause#0")
def a_task_runs(world: World) -> Replay:
    return Replay(world.grid, ids={3: world.running()})


@situation("task.resume#0")
def a_task_is_paused(world: World) -> Replay:
    task_id = world.running()
    assert world.grid.post("task/pause", origin="wlcg.production", task_id=task_id)["success"]
    return Replay(world.grid, ids={3: task_id})


@situation("task.retry#1")
def a_task_ended_with_a_failed_input(world: World) -> Replay:
    return Replay(world.grid, ids={2: world.half_failed()})


@situation("task.retry#3")
def a_task_runs_with_a_failed_input(world: World) -> Replay:
    return Replay(world.grid, ids={13: world.half_failed(waiting=True)})


@situation(
    "task.get_datasets_and_files#0",
    "task.get_detailed_info#0",
    "task.get_details#0",
    "task.get_job_descriptions#0",
    "task.get_job_ids#0",
    "task.get_status#1",
    "task.get_task_parameters#0",
)
def a_task_is_finished(world: World) -> Replay:
    return Replay(world.grid, ids={2: world.finished})


@situation("task.get_tasks_detailed_info_since#0")
def the_first_task_is_done(world: World) -> Replay:
    return Replay(world.grid, ids={1: world.done})


@situation("task.get_tasks_modified_since#0")
def tasks_in_several_states(world: World) -> Replay:
    return Replay(world.grid, ids={1: world.done, 2: world.finished, 4: world.active, 6: world.pending})


# --- jobs ----------------------------------------------------------------------------------------------------


@situation("job.get_description#0", "job.get_description_incl_archive#0")
def jobs_in_several_states(world: World) -> Replay:
    finished, failed = (world.job_of(world.finished, state) for state in ("finished", "failed"))
    return Replay(world.grid, ids={2: finished, 3: failed, 4: world.job_of(world.active)})


@situation("job.get_metadata_for_analysis_jobs#0")
def a_job_left_a_report(world: World) -> Replay:
    task_id = world.finished
    job = world.job_of(task_id, "finished")
    world.grid.get("task/get_status", task_id=task_id)
    # the same number stood for the task and for its job; in the answer it is the job's
    return Replay(world.grid, ids={2: task_id}, names={"job": str(job)})


@situation("job.get_metadata_for_analysis_jobs#1")
def no_job_left_a_report(world: World) -> Replay:
    return Replay(world.grid, ids={13: world.active})


@situation("job.get_status#0")
def a_finished_and_a_failed_job(world: World) -> Replay:
    return Replay(world.grid, ids={1: world.job_of(world.done), 3: world.job_of(world.finished, "failed")})


# --- pilots --------------------------------------------------------------------------------------------------


@situation("pilot.acquire_jobs#0")
def a_job_waits(world: World) -> Replay:
    world.running(world.parameters(site=PILOT_QUEUE))
    return Replay(world.grid, names={QUEUE: PILOT_QUEUE})


@situation("pilot.acquire_jobs#1")
def no_job_waits(world: World) -> Replay:
    return Replay(world.grid, names={QUEUE: EMPTY_QUEUE})


@situation("pilot.get_job_status#1")
def a_finished_and_a_running_job(world: World) -> Replay:
    return Replay(world.grid, ids={1: world.job_of(world.done), 11: world.job_of(world.with_running_job)})


@situation("pilot.update_job#0")
def a_pilot_has_just_got_a_job(world: World) -> Replay:
    task_id = world.running(world.parameters(site=PILOT_QUEUE))
    taken = world.grid.post("pilot/acquire_jobs", origin="wlcg.pilot", site_name=PILOT_QUEUE, task_id=task_id)
    return Replay(world.grid, ids={1: json.loads(json.dumps(taken))["data"]["jobs"][0]["PandaID"]})


@situation("pilot.update_job#1")
def a_pilot_runs_a_job(world: World) -> Replay:
    return Replay(world.grid, ids={11: world.job_of(world.with_running_job)})
