"""Ends a task in the triggerer: hands its value on as a worker would, where that takes no more than an XCom."""

from __future__ import annotations

import asyncio
from typing import Any, Final, Literal
from weakref import WeakKeyDictionary

from airflow.providers.common.compat.sdk import XCom

from airflow_provider_panda.payload.values import TAG
from airflow_provider_panda.triggers.event import FunctionEvent, Outcome

Returns = Literal["value", "list"]
"""What a task's XCom is: the value of its one job, or the list of its jobs' values."""

RETURN_KEY: Final = "return_value"

AT_ONCE: Final = 4
"""Values on their way to XCom at a time. A triggerer's supervisor serves one call in each of its rounds, and a round
looks at all triggers (0.14 s with 5,000 on SQLite): more in its queue would keep back the events of those that are
through."""

QUEUE_LIMIT: Final = 100
"""Values that wait for their turn. Where more come at once, the supervisor is the bottleneck and workers are faster."""


class _Desk:
    """The way to XCom of one event loop."""

    def __init__(self) -> None:
        self.turns = asyncio.Semaphore(AT_ONCE)
        self.queue = 0


_desks: WeakKeyDictionary[asyncio.AbstractEventLoop, _Desk] = WeakKeyDictionary()


def plain_values(event: FunctionEvent) -> list[Any] | None:
    """Return the values of all jobs in their order, or None where a worker is needed to make something of them.

    Needed it is for failures, for values that are elsewhere or have types that JSON lacks, and where iDDS has not told
    the PanDA task yet, whose id is left for the user.
    """
    if event.outcome is not Outcome.COMPLETE or event.n_failures or event.results is None or event.task_id is None:
        return None
    values: dict[int, Any] = {}
    for entry in event.results:
        if "payload" not in entry or not is_plain(entry["payload"]):
            return None
        values[entry["job"]] = entry["payload"]
    return [values[job] for job in sorted(values)] if len(values) == event.n_jobs else None


def is_plain(tree: Any) -> bool:
    """Whether an encoded value is the value itself, and such as XCom's JSON carries unchanged."""
    if isinstance(tree, list):
        return all(is_plain(item) for item in tree)
    if isinstance(tree, dict):
        return TAG not in tree and all(not key.startswith("__") and is_plain(item) for key, item in tree.items())
    return True


async def leave_return_value(task_instance: Any, value: Any) -> bool:
    """Leave a task's value in XCom, as its worker would after ``execute`` (None leaves nothing); return whether it did.

    It does not while too many others wait to do the same.

    Not by the event: Airflow 3.3.2 stores the values of a TaskSuccessEvent as JSON text inside JSON
    (models/xcom.py, serialize_value), which a task that pulls it gets as a string.
    """
    if value is None:
        return True
    desk = _desks.setdefault(asyncio.get_running_loop(), _Desk())
    if desk.queue >= QUEUE_LIMIT:
        return False
    ti = task_instance
    desk.queue += 1
    try:
        async with desk.turns:
            await XCom.aset(
                key=RETURN_KEY,
                value=value,
                dag_id=ti.dag_id,
                task_id=ti.task_id,
                run_id=ti.run_id,
                map_index=ti.map_index,
            )
    finally:
        desk.queue -= 1
    return True
