"""Where the time of one function goes: the runner's start, the message's way home, and each stop of a whole call.

Three parts, each compared within this run, on a real ActiveMQ:

1. the runner's start, up to the function's first line, against a bare start of the same interpreter, in turns;
2. the stops of a call without Airflow's processes: operator's steps, embedded grid without delays, trigger;
3. a whole call in a real Airflow, from operator to XCom, against what nobody can save: a bare start of the interpreter,
   one message to the broker and back, and what Airflow itself takes for a bare deferrable task (``one_call.py``, which
   also says where the stamps come from).

``provider_share_s`` is the whole call of part 3 less these floors and less the embedded grid's own delays.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

if __name__ == "__main__":
    sys.path.pop(0)  # this folder, where airflow.py would be taken for Airflow
sys.path.insert(0, str(Path(__file__).parents[1]))

from airflow_provider_panda.grid.names import processing_type, task_name
from airflow_provider_panda.grid.outcome import CallPolicy
from airflow_provider_panda.grid.task import TaskSpec, task_key
from airflow_provider_panda.payload import bootstrap, envelope
from airflow_provider_panda.payload.command import Environment, job_command
from airflow_provider_panda.payload.delivery import user_secret
from airflow_provider_panda.payload.package import build_archive
from benchmarks import one_call
from benchmarks.floors import bare_starts, broker_round_trips
from benchmarks.installation import INSTANCE, SECRET, broker_endpoint, installed
from benchmarks.report import Target, finish, print_table, spread
from demo.grid import Grid
from demo.processes import environment
from tests.integration.payload.interpreters import find_interpreter
from tests.stack.activemq import ActiveMQ

TARGETS: Final = (Target(key="provider_share_s", limit=0.5),)

PUBLISHER = """
import json, sys, time
from airflow_provider_panda.payload import envelope, publish
for line in sys.stdin:
    order = json.loads(line)
    report = order["report"]
    report["payload"] = time.time()
    signed = envelope.sign(report, bytes.fromhex(order["key"]))
    headers, body = envelope.message(report, signed, name="f")
    outcome = publish.publish(order["broker"], headers, body)
    print(json.dumps(bool(outcome.ok)), flush=True)
"""


def first_line_time() -> float:
    """The benchmark's function: when does its first line run?"""
    import time

    return time.time()


def raises() -> None:
    """The benchmark's failing function."""
    raise ValueError("on purpose")


def median_ms(seconds: Sequence[float]) -> float:
    """Return the median in milliseconds."""
    return round(statistics.median(seconds) * 1000, 2)


def in_ms(seconds: Sequence[float]) -> str:
    """Return the median with the least and the most, in milliseconds."""
    return spread([each * 1000 for each in seconds], digits=1)


def runner_start(python: str, rounds: int) -> tuple[list[float], list[float]]:
    """Return the seconds of bare starts, and of runner starts up to the function's first line, taken in turns."""
    archive = build_archive(first_line_time)
    folder = Path(tempfile.mkdtemp(prefix="roundtrip-"))
    try:
        bootstrap.unpack(io.BytesIO(archive.content), str(folder))
        key = task_key(INSTANCE, "benchmark")
        (folder / "panda_secrets.json").write_text(json.dumps({"S": user_secret(SECRET, None)}))
        command = [python, "panda_runner/runner.py", "--job", "0", "--attempt", "1", "--task-key", key, "--secret", "S"]
        bare, ours = [], []
        for _ in range(rounds):
            began = time.time()
            subprocess.run([python, "-c", "pass"], check=True)
            bare.append(time.time() - began)
            began = time.time()
            subprocess.run(command, cwd=folder, check=True, stderr=subprocess.DEVNULL)
            report = json.loads((folder / "jobReport.json").read_text())[envelope.BODY_KEY]
            ours.append(json.loads(report["signed"])["payload"] - began)
        return bare, ours
    finally:
        shutil.rmtree(folder)


async def publish_to_event(grid: Grid, broker: ActiveMQ, rounds: int, status: str) -> list[float]:
    """Return the seconds from a worker's publish to the trigger's event, each with a task of its own."""
    from airflow_provider_panda.triggers.function import PandaFunctionTrigger

    publisher = subprocess.Popen(
        [sys.executable, "-c", PUBLISHER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    assert publisher.stdin is not None
    assert publisher.stdout is not None
    delivery = json.loads(user_secret(SECRET, broker_endpoint(broker)))["broker"]
    seconds = []
    try:
        for number in range(rounds):
            key = task_key(INSTANCE, f"{status} {number} {time.time()}")
            trigger = PandaFunctionTrigger(
                panda_conn_id="panda_bench",
                task_key=key,
                task_id=10_000_000 + number,
                task_name=f"bench-{key}",
                processing_type=processing_type(INSTANCE),
                policy=CallPolicy(n_jobs=1),
            )
            waiting = asyncio.ensure_future(anext(trigger.run()))
            await asyncio.sleep(0.3 if number else 2.0)
            exception = None if status == envelope.RETURNED else {"type": "E", "message": "m", "traceback": "t"}
            report = {
                "task_key": key, "job": 0, "attempt": 1, "status": status, "encoding": "json", "payload": None,
                "exception": exception, "start": 0.0, "end": 0.0, "host": "h", "site": None, "panda_id": None,
                "python": "3",
            }  # fmt: skip
            order = {"report": report, "key": envelope.derive_key(SECRET, key).hex(), "broker": delivery}
            sent = time.time()
            publisher.stdin.write(json.dumps(order) + "\n")
            publisher.stdin.flush()
            event = await waiting
            arrived = time.time()
            results = event.payload["results"]
            seconds.append(arrived - (results[0]["payload"] if results else sent))
            publisher.stdout.readline()
    finally:
        publisher.stdin.close()
        publisher.wait()
    return seconds


async def whole_calls(grid: Grid, broker: ActiveMQ, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each stop of whole calls on the embedded grid."""
    from airflow_provider_panda.grid.panda import PandaGrid
    from airflow_provider_panda.triggers.connections import shared_connection
    from airflow_provider_panda.triggers.function import PandaFunctionTrigger

    shared = await shared_connection("panda_bench")
    panda = PandaGrid(shared.panda.endpoint, defaults=shared.panda.defaults)
    secret = f"AIRFLOW_PANDA_{INSTANCE.upper()}"
    panda.set_secret(secret, user_secret(SECRET, shared.broker))
    stops: dict[str, list[float]] = {}

    def note(stop: str, seconds: float) -> None:
        stops.setdefault(stop, []).append(seconds)

    for number in range(rounds):
        began = time.time()
        archive = build_archive(first_line_time)
        key = task_key(INSTANCE, f"whole {number} {time.time()}")
        packed = time.time()
        panda.upload(archive.name, archive.content)
        uploaded = time.time()
        command = job_command(
            archive=archive, cache_url=grid.url, task_key=key,
            environment=Environment(python=sys.executable), secret_name=secret, result_store=None,
        )  # fmt: skip
        name = task_name("bench", "roundtrip", str(number), key)
        spec = TaskSpec(
            key=key, name=name, n_jobs=1, command=command, archive_name=archive.name,
            processing_type=processing_type(INSTANCE),
        )  # fmt: skip
        task_id = panda.submit(spec)
        submitted = time.time()
        trigger = PandaFunctionTrigger(
            panda_conn_id="panda_bench", task_key=key, task_id=task_id, task_name=name,
            processing_type=spec.processing_type, policy=CallPolicy(n_jobs=1),
        )  # fmt: skip
        event = await anext(trigger.run())
        arrived = time.time()
        assert event.payload["outcome"] == "complete", event.payload
        ran = event.payload["results"][0]["payload"]
        note("pack", packed - began)
        note("upload", uploaded - packed)
        note("look up and submit", submitted - uploaded)
        note("embedded grid, bootstrap and runner, to the function's first line", ran - submitted)
        note("first line to trigger event", arrived - ran)
        note("whole call", arrived - began)
    return stops


def connections(grid: Grid, broker: ActiveMQ) -> dict[str, str]:
    """Return the environment variables of both connections."""
    stomp = {
        "conn_type": "stomp", "host": f"{broker.host}:{broker.port}",
        "login": broker.subscriber.name, "password": broker.subscriber.passcode,
        "extra": {"publisher_login": broker.publisher.name, "publisher_password": broker.publisher.passcode},
    }  # fmt: skip
    panda = {
        "conn_type": "panda", "host": grid.url, "password": grid.token(),
        "extra": {"auth": "token", "vo": "wlcg", "broker_conn_id": "broker_bench", "instance_secret": SECRET},
    }  # fmt: skip
    return {"AIRFLOW_CONN_BROKER_BENCH": json.dumps(stomp), "AIRFLOW_CONN_PANDA_BENCH": json.dumps(panda)}


def main() -> None:
    """Measure, print a table, and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="measurements of each kind (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=5, help="calls without Airflow (default: %(default)s)")
    parser.add_argument("--airflow-calls", type=int, default=10, help="calls in Airflow (default: %(default)s)")
    options = parser.parse_args()

    rows: list[tuple[str, ...]] = []
    starts = runner_starts(options.rounds)
    for version, (bare, ours) in starts.items():
        rows.append((f"bare start of Python {version}", in_ms(bare)))
        rows.append((f"runner's start to first line, {version}", in_ms(ours)))
    returned, raised, stops = without_airflow(options.rounds, options.calls)
    rows.append(("publish to trigger event, value", in_ms(returned)))
    rows.append(("order to publish to trigger event, exception", in_ms(raised)))
    rows += [(f"call: {stop}", in_ms(seconds)) for stop, seconds in stops.items()]
    print_table(("milliseconds", "median (least-most)"), rows)
    print()
    share = in_airflow(options.airflow_calls)
    # Ratio of medians: single starts swing on a shared machine.
    ratios = {
        version: round(statistics.median(ours) / statistics.median(bare), 2) for version, (bare, ours) in starts.items()
    }
    figures = {
        "runner_start_ratio": max(ratios.values()),
        "runner_start_ratios": ratios,
        "publish_to_event_ms": median_ms(returned),
        "exception_to_event_ms": median_ms(raised),
        "stops_ms": {stop: median_ms(seconds) for stop, seconds in stops.items()},
    }
    finish({**figures, **share}, TARGETS)


def runner_starts(rounds: int) -> dict[str, tuple[list[float], list[float]]]:
    """Return the seconds of bare starts and of the runner's, by Python version."""
    found = {}
    for minor in range(9, 14):
        python = find_interpreter(minor)
        if python is None:
            print(f"Python 3.{minor} is not on this machine: skipped")
            continue
        found[f"3.{minor}"] = runner_start(python, rounds)
    return found


def without_airflow(rounds: int, calls: int) -> tuple[list[float], list[float], dict[str, list[float]]]:
    """Take the measurements of part 2, whose trigger runs in this process."""
    folder = Path(tempfile.mkdtemp(prefix="roundtrip-grid-"))
    os.environ.update(AIRFLOW_HOME=str(folder / "airflow"), AIRFLOW__LOGGING__LOGGING_LEVEL="ERROR")
    try:
        with ActiveMQ() as broker, contextlib.ExitStack() as stack:
            grid = Grid(folder / "grid", ["--slots", "1"])
            stack.callback(grid.stop)
            os.environ.update(connections(grid, broker))
            return asyncio.run(measure(grid, broker, rounds, calls))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def in_airflow(calls: int) -> dict[str, Any]:
    """Take the measurements of part 3, print their table, and return their figures."""
    with installed(one_call.dag_files(), grid_arguments=one_call.GRID_ARGUMENTS) as installation:
        bare, ours = one_call.in_turns(installation, calls)
        starts = bare_starts(one_call.NODE_PYTHON, calls)
        broker = installation.broker
        login = broker.subscriber
        trips = broker_round_trips(broker.host, broker.port, login.name, login.passcode, calls)
    floor = one_call.floors(bare, starts, trips)
    share, provider = one_call.shares(ours, floor), one_call.provider_share(ours, floor)
    whole = statistics.median(call.whole for call in ours)
    rows = []
    for stop in share:
        seconds = [call.stops()[stop] for call in ours]
        part = "" if stop == one_call.GRID else f"{share[stop] / whole:.0%}"
        least = f"{floor[stop] * 1000:,.1f}" if stop in floor else ""
        rows.append((stop, in_ms(seconds), least, f"{share[stop] * 1000:,.1f}", part))
    rows.append(
        ("whole call without the grid's delays", in_ms([call.whole for call in ours]),
         f"{sum(floor.values()) * 1000:,.1f}", f"{provider * 1000:,.1f}", f"{provider / whole:.0%}")
    )  # fmt: skip
    print_table(("a call in Airflow, milliseconds", "median (least-most)", "floor", "ours", "of the whole"), rows)
    return {
        "provider_share_s": round(provider, 3),
        "airflow_whole_s": round(whole, 3),
        "airflow_floor_s": {stop: round(seconds, 4) for stop, seconds in floor.items()},
        "airflow_shares_s": {stop: round(seconds, 4) for stop, seconds in share.items()},
    }


async def measure(
    grid: Grid, broker: ActiveMQ, rounds: int, calls: int
) -> tuple[list[float], list[float], dict[str, list[float]]]:
    """Take the measurements that need an event loop."""
    return (
        await publish_to_event(grid, broker, rounds, envelope.RETURNED),
        await publish_to_event(grid, broker, rounds, envelope.RAISED),
        await whole_calls(grid, broker, calls),
    )


if __name__ == "__main__":
    main()
