"""Runs iDDS's agents, as they are or in fast mode.

iDDS's agents look for work every 10 s, and turn idle loops that take a whole core (facts/idds.md sections 1 and 9).
Fast mode lets them look every second, and lets the loops pause. Nothing else is changed.
"""

from __future__ import annotations

import runpy
import threading
import time
import types
from pathlib import Path
from typing import Any

PAUSE = 0.02
"""Seconds that an idle loop pauses in fast mode."""
SLOW_SCAN = 10
"""Seconds between two looks for work, as iDDS has it."""
SCAN_PERIOD = 1
"""Seconds between two looks for work in fast mode."""
HEARTBEAT = 5
"""Seconds between two signs of life of an agent in fast mode. New agents take over from ones that were killed after
two of them; iDDS's own 60 s would leave it without a receiver for two minutes."""
RECEIVER_PATIENCE = 10.0
"""Seconds until agents count as ready although the receiver has no broker yet."""


class PatientEvent(threading.Event):
    """An event whose shortest waits are long enough for others to run."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the event, at least for a moment."""
        if timeout is not None and timeout < 0.001:
            timeout = PAUSE
        return super().wait(timeout)


def hasten() -> None:
    """Put iDDS's scheduler into fast mode; to be called before agents are made."""
    from idds.agents.common import baseagent, timerscheduler

    own = types.ModuleType("threading")
    own.__dict__.update(threading.__dict__)
    own.Event = PatientEvent  # type: ignore[attr-defined]
    timerscheduler.threading = own
    create = timerscheduler.TimerScheduler.create_task

    def create_sooner(self: Any, *args: Any, delay_time: float = SLOW_SCAN, **kwargs: Any) -> Any:
        return create(self, *args, delay_time=SCAN_PERIOD if delay_time == SLOW_SCAN else delay_time, **kwargs)

    timerscheduler.TimerScheduler.create_task = create_sooner
    baseagent.BaseAgent.heartbeat_delay = HEARTBEAT


def _announce(ready: Path) -> None:
    """Make a file once all agents run and the receiver has subscribed."""
    from idds.agents.common.baseagent import BaseAgent
    from idds.common.config import config_get

    wanted = len(config_get("main", "agents").split(","))
    patience = None
    while True:
        agents = [thread for thread in threading.enumerate() if isinstance(thread, BaseAgent)]
        if len(agents) >= wanted:
            patience = patience or time.monotonic() + RECEIVER_PATIENCE
            receivers = [agent for agent in agents if hasattr(agent, "is_receiver_started")]
            if all(_subscribed(each) for each in receivers) or time.monotonic() > patience:
                ready.touch()
                return
        time.sleep(0.1)


def _subscribed(receiver: Any) -> bool:
    channels: Any = getattr(getattr(receiver, "receiver", None), "receiver_conns", None) or {}
    return bool(channels) and all(conn.is_connected() for conns in channels.values() for conn in conns or ())


def run(*, fast: bool, ready: Path) -> None:
    """Run the configured agents in this process until SIGTERM; ``ready`` is a file that exists when all of them run."""
    ready.unlink(missing_ok=True)
    if fast:
        hasten()
    threading.Thread(target=_announce, args=(ready,), name="announce", daemon=True).start()
    try:
        runpy.run_module("idds.agents.main", run_name="__main__")
    finally:
        ready.unlink(missing_ok=True)
