"""What a trigger does when Airflow tells it that a user ended its task: kill, unless that is not so.

Airflow grants ``on_kill`` about one second, and calls it by mistake when a stalled triggerer wakes up after its
triggers were given to another (facts/airflow.md section 2). So the work goes to a task of its own, which looks first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from airflow.providers.common.compat.sdk import XCom

_kills: set[asyncio.Task[None]] = set()
"""Kills under way: the loop keeps only weak references to tasks."""


async def kill_unless_still_waited_for(
    task_instance: Any,
    *,
    id_key: str,
    own_id: int | str,
    kill: Callable[[], Awaitable[object]],
    what: str,
    by_hand: str,
    log: logging.Logger | Any,
) -> None:
    """Kill what a trigger waits for, in a task that survives this call's cancellation.

    :param task_instance: the trigger's task instance, or None.
    :param id_key: XCom key of the id or key that the operator left before it deferred.
    :param own_id: the id that the trigger waits for.
    :param kill: does it.
    :param what: what is killed, in words that begin with the task key.
    :param by_hand: what a person does where this fails.
    :param log: the trigger's log.
    """

    async def look_and_kill() -> None:
        try:
            if await is_still_waited_for(task_instance, id_key=id_key, own_id=own_id):
                log.info("%s: another triggerer waits for it now; not killed", what)
                return
            await kill()
            log.info("%s: killed by the user's action", what)
        except Exception:
            log.exception("%s: could not be killed; %s", what, by_hand)

    task = asyncio.create_task(look_and_kill(), name=f"kill {what}")
    _kills.add(task)
    task.add_done_callback(_kills.discard)
    await asyncio.shield(task)


async def is_still_waited_for(task_instance: Any, *, id_key: str, own_id: int | str) -> bool:
    """Tell a reassigned trigger from a killed one: the task is deferred, and on this very id.

    A cleared task may already be deferred again, but then on its next try's id.
    """
    from asgiref.sync import sync_to_async

    ti = task_instance
    if ti is None:
        return False
    # Both calls go to the supervisor by a blocking socket: never on the loop.
    if "deferred" not in await sync_to_async(_task_states)(ti):
        return False
    current = await sync_to_async(XCom.get_one)(
        key=id_key, dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id, map_index=ti.map_index
    )
    return bool(current == own_id)


def _task_states(ti: Any) -> set[str]:
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    states = RuntimeTaskInstance.get_task_states(
        dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id], map_index=ti.map_index
    )
    return {str(state) for by_task in states.values() for state in by_task.values()}
