"""When a trigger may fire: not before its deferral is known, and no faster than its triggerer's supervisor writes."""

from __future__ import annotations

import asyncio
import time
from typing import Final
from weakref import WeakKeyDictionary

PACE: Final = 100.0
"""Events that the triggers of one triggerer fire in a second. Its supervisor writes one after the other (9 ms each on
SQLite), and no heart-beat before it is through with all that came: thousands at once, and Airflow takes it for dead."""

_free_at: WeakKeyDictionary[asyncio.AbstractEventLoop, float] = WeakKeyDictionary()
"""When the next one may fire, on the clock of its loop."""


async def turn_to_fire() -> None:
    """Wait until it is one's turn: at once, unless many others fire at this moment."""
    loop = asyncio.get_running_loop()
    now = loop.time()
    turn = max(now, _free_at.get(loop, now))
    _free_at[loop] = turn + 1 / PACE
    if turn > now:
        await asyncio.sleep(turn - now)


async def settled(not_before: float | None) -> None:
    """Wait until Airflow's scheduler has heard that a task was deferred (docs/architecture.md).

    It tells nobody; time is all there is to wait for.

    :param not_before: Unix time in seconds, or None.
    """
    if not_before is not None:
        await asyncio.sleep(not_before - time.time())
