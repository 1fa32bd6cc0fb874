"""A hub in a process of its own, whose memory can be measured: ``python listener.py`` with settings as JSON.

It says ``{"listening": true}`` on stdout, then obeys lines on stdin and tells how the hub fares. ``full MB`` blocks its
event loop until so much waits for it, and longer than a broker waits for a heart-beat; ``cut N`` until the connection
was lost N times. ``after N`` waits until N results were delivered, ``again N`` until the waiter was told N times that
messages may have been missed, ``until TEXT`` for a result that begins so.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

from airflow_provider_panda.broker.endpoint import BrokerEndpoint
from airflow_provider_panda.broker.hub import Hub, get_hub
from airflow_provider_panda.payload.result import JobResult


def memory_mb(what: str) -> float:
    """Return a value of /proc/self/status in MB: VmRSS now, VmHWM at most since the process began."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def tell(**what: Any) -> None:
    """Print a line of JSON."""
    print(json.dumps(what), flush=True)


def health(hub: Hub, **more: Any) -> dict[str, Any]:
    """Return how a hub fares."""
    found = hub.health()
    return {
        "messages": found.messages,
        "dropped": dict(found.dropped),
        "reconnects": found.reconnects,
        "states": [each.state.value for each in found.addresses],
        "inbox_bytes": found.inbox_bytes,
        "peak_mb": memory_mb("VmHWM"),
        **more,
    }


def block(hub: Hub, command: str, argument: float) -> None:
    """Do what must not be done in a loop."""
    end = time.monotonic() + 80
    while time.monotonic() < end:
        found = hub.health()
        if command == "cut" and found.reconnects >= argument:
            return
        if command == "full" and found.inbox_bytes >= argument * 2**20:
            time.sleep(8)
            return
        time.sleep(0.05)


async def listen(settings: dict[str, Any]) -> None:
    """Listen, obey, end with stdin."""
    fields = settings["endpoint"]
    endpoint = BrokerEndpoint(**{**fields, "addresses": tuple((host, port) for host, port in fields["addresses"])})
    hub = get_hub(endpoint, settings["instance"])
    delivered: list[str] = []
    resubscribed = 0

    def deliver(result: JobResult) -> None:
        delivered.append(str(result.payload)[:20])

    def again() -> None:
        nonlocal resubscribed
        resubscribed += 1

    def reached(command: str, argument: str) -> bool:
        if command == "until":
            return any(each.startswith(argument) for each in delivered)
        return (len(delivered) if command == "after" else resubscribed) >= int(argument)

    key = bytes.fromhex(settings["key"])
    with hub.wait_for(settings["task_key"], key=key, deliver=deliver, on_resubscribed=again) as waiter:
        await waiter.subscribed(60)
        tell(listening=True, rss_mb=memory_mb("VmRSS"))
        while line := await asyncio.to_thread(sys.stdin.readline):
            command, argument = line.split()
            if command in ("full", "cut"):
                block(hub, command, float(argument))
                tell(**health(hub))
                continue
            async with asyncio.timeout(120):
                while not reached(command, argument) or not hub.health().connected:
                    await asyncio.sleep(0.05)
            tell(**health(hub, delivered=delivered))
    await hub.aclose()


if __name__ == "__main__":
    asyncio.run(listen(json.loads(sys.argv[1])))
