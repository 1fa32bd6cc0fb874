"""What a trigger does when Airflow tells it that a user ended its task: kill, unless that is not so.

Airflow grants ``on_kill`` about one second, and calls it by mistake when a stalled triggerer wakes up after its
triggers were given to another (facts/airflow.md section 2). So the work goes to a task of its own, which looks first,
and goes on trying while Airflow or PanDA cannot be asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

from airflow.providers.common.compat.sdk import XCom

from airflow_provider_panda.exceptions import ConfigurationError, GridRefusedError, TaskNotFoundError
from airflow_provider_panda.grid.retry import RetryPolicy
from airflow_provider_panda.triggers.looks import Place, state_at

LOOKS: Final = RetryPolicy(attempts=10, first=2.0, longest=60.0)
"""How often it is tried to look whether a task is still waited for: over three to six minutes."""

KILLS: Final = RetryPolicy(attempts=18, first=2.0, longest=60.0)
"""How often a kill is tried: over some ten minutes (7 to 13)."""

AT_ONCE: Final = RetryPolicy(attempts=1)
"""A kill of a trigger is one call: it is made again from here."""

_kills: set[asyncio.Task[None]] = set()
"""Kills under way: the loop keeps only weak references to tasks."""

_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
"""One XCom is looked at at a time, so that what else calls the supervisor comes in between."""


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
    :param kill: tries it once; does no harm when it is done twice.
    :param what: what is killed, in words that begin with the task key.
    :param by_hand: what a person does where this fails.
    :param log: the trigger's log.
    """

    async def look_and_kill() -> None:
        try:
            still = await _patiently(
                LOOKS,
                lambda: is_still_waited_for(task_instance, id_key=id_key, own_id=own_id),
                f"{what}: Airflow cannot be asked whether it is still waited for",
                log,
            )
        except Exception as error:
            # Killing what another triggerer waits for would be worse.
            log.error("%s: not killed, for Airflow cannot be asked whether it is still waited for (%s); "
                      "`airflow panda reap` finds it if it is not, or %s", what, _said(error), by_hand)  # fmt: skip
            return
        if still:
            log.info("%s: another triggerer waits for it now; not killed", what)
            return
        try:
            await _patiently(KILLS, kill, f"{what}: the kill failed", log)
            log.info("%s: killed by the user's action", what)
        except Exception as error:
            log.error(
                "%s: could not be killed: %s. `airflow panda reap` will, or %s", what, _said(error), by_hand,
                exc_info=not isinstance(error, GridRefusedError),
            )  # fmt: skip

    task = asyncio.create_task(look_and_kill(), name=f"kill {what}")
    _kills.add(task)
    task.add_done_callback(_kills.discard)
    await asyncio.shield(task)


async def _patiently(
    policy: RetryPolicy, action: Callable[[], Awaitable[Any]], failed: str, log: logging.Logger | Any
) -> Any:
    """Do something, again after growing pauses while that may help, and return what it returned.

    :raises Exception: the error of the last attempt, or one that does not pass.
    """
    for pause in policy.pauses():
        try:
            return await action()
        except Exception as error:
            if _stays(error):
                raise
            log.warning("%s and is tried again in %.0f s: %s", failed, pause, _said(error))
        await asyncio.sleep(pause)
    return await action()


def _stays(error: Exception) -> bool:
    """Whether an error will be the same in a few minutes; a token that expired may be renewed by then."""
    if isinstance(error, TaskNotFoundError):  # PanDA registers a task some time after its submission
        return False
    return isinstance(error, (ConfigurationError, GridRefusedError))


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


async def is_still_waited_for(task_instance: Any, *, id_key: str, own_id: int | str) -> bool:
    """Tell a reassigned trigger from a killed one: the task is deferred, and on this very id.

    A cleared task may already be deferred again, but then on its next try's id. Nobody waits for one that was deleted,
    nor for one that the other triggerer has resumed meanwhile: its grid task is over, or to be killed.

    :raises Exception: Airflow could not be asked.
    """
    from asgiref.sync import sync_to_async

    ti = task_instance
    if ti is None or await state_at(Place.of(ti)) != "deferred":
        return False
    turn = _turns.setdefault(asyncio.get_running_loop(), asyncio.Lock())
    async with turn:
        # To the supervisor by a blocking socket: never on the loop.
        current = await sync_to_async(XCom.get_one)(
            key=id_key, dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id, map_index=ti.map_index
        )
    return bool(current == own_id)
