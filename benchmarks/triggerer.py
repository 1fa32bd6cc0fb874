"""A real triggerer with thousands of waiting functions: what they cost while nothing happens, and how they end.

Two private Airflows wait side by side: one with this provider's triggers, one with as many bare ones (DateTimeTrigger,
a timer). CPU seconds are those of each triggerer's processes over the same minutes, so that whatever else the machine
does is in both. The deferred rows are put straight into the metadata databases (``waiting_rows.py``); there is no
scheduler, worker or API server.

Real: Airflow's triggerer, ActiveMQ, messages. Stand-in: PanDA, an HTTP server in this process that lists as many
running tasks as wait, with rows as large as the real server's, and counts what it is asked. It has no jobs.

At the end all results are published at once; measured is the time until no task instance is deferred any more: ended by
its trigger with its value in XCom, or, where more end at once than the triggerer's supervisor writes, scheduled to be
resumed on a worker with its value in its ``next_kwargs``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Final

if __name__ == "__main__":
    sys.path.pop(0)  # this folder, where airflow.py would be taken for Airflow
sys.path.insert(0, str(Path(__file__).parents[1]))

from airflow_provider_panda.grid.task import instance_id
from airflow_provider_panda.payload import envelope
from benchmarks.installation import benchmark_folder
from benchmarks.report import Target, finish, print_table
from demo.airflow import Airflow
from tests.stack.activemq import ActiveMQ, missing
from tests.stack.scripted_panda import ScriptedPanda, Seen, body, scripted_panda

SECRET: Final = "benchmark-instance-secret"
INSTANCE: Final = instance_id(SECRET)
ROWS: Final = Path(__file__).with_name("waiting_rows.py")
SAMPLE: Final = Path(__file__).parents[1] / "tests/samples/panda/task.get_tasks_detailed_info_since.json"
FIRST: Final = 1_000_000
"""jediTaskID of the first waiting task."""
LISTED: Final = 500
"""Rows of PanDA's listing at most (spec/panda_api.yaml, n_tasks)."""
PATIENCE: Final = 600.0
"""Seconds after which a phase that does not end is given up."""
TARGETS: Final = (
    Target(key="idle_cpu_ratio", limit=1.3),
    Target(key="requests_per_task_minute", limit=0.01),
    Target(key="blocked_warnings", limit=0),
    Target(key="heartbeat_age_s", limit=30),  # [triggerer] triggerer_health_check_threshold
)
BLOCKED: Final = "async thread was blocked"


class StandIn:
    """PanDA as the triggers see it: tasks that run and run.

    :param panda: the HTTP server.
    """

    def __init__(self, panda: ScriptedPanda) -> None:
        self.panda = panda
        (captured,) = json.loads(SAMPLE.read_text())
        (self._row, *_) = captured["response_body"]["data"]
        panda.on("task/get_tasks_detailed_info_since", self._listing)
        panda.on("task/get_tasks_modified_since", self._brief)
        panda.on("task/get_detailed_info", self._one)
        self.tasks = 0
        self._encoded: dict[str, bytes] = {}

    def hold(self, tasks: int) -> None:
        """List so many running tasks from now on."""
        listed = [self._detailed(FIRST + number) for number in range(min(tasks, LISTED))]
        brief_fields = ("jediTaskID", "modificationTime", "status", "processingType", "reqID", "site", "taskName")
        brief = {}
        for number in range(tasks):
            row = self._detailed(FIRST + number)
            brief[str(row["reqID"])] = {name: row[name] for name in brief_fields if name in row}
        self._encoded = {"listing": _envelope(listed), "brief": _envelope(brief)}
        self.tasks = tasks

    def _detailed(self, task_id: int) -> dict[str, Any]:
        return {
            **self._row, "jediTaskID": task_id, "reqID": task_id, "status": "running", "errorDialog": None,
            "processingType": f"airflow-{INSTANCE}", "nFiles": 1, "nFilesFinished": 0, "nFilesFailed": 0,
        }  # fmt: skip

    def _listing(self, handler: BaseHTTPRequestHandler, seen: Seen) -> None:
        body(self._encoded["listing"])(handler, seen)

    def _brief(self, handler: BaseHTTPRequestHandler, seen: Seen) -> None:
        body(self._encoded["brief"])(handler, seen)

    def _one(self, handler: BaseHTTPRequestHandler, seen: Seen) -> None:
        body(_envelope(self._detailed(int(seen.query["task_id"][0]))))(handler, seen)


def _envelope(data: Any) -> bytes:
    return json.dumps({"success": True, "message": "", "data": data}).encode()


class Triggerer:
    """A private Airflow of which only the triggerer runs.

    :param kind: "ours" or "bare".
    :param folder: folder of its own.
    :param settings: environment variables, the connections among them.
    """

    def __init__(self, kind: str, folder: Path, settings: dict[str, str]) -> None:
        self.kind, self.folder = kind, folder
        self.airflow = Airflow(folder / "home", folder / "dags", settings=settings)
        self.keys: list[str] = []
        self._logs = folder / "home" / "logs" / "dag_id=waiting" / "run_id=run" / "task_id=wait"

    def start(self) -> None:
        """Make the database and start the triggerer."""
        self.airflow.run("db", "migrate")
        self.insert(1)
        self.airflow.start_component("triggerer")
        self.wait_until_all_run()  # the first one of a triggerer's life takes ten seconds

    def insert(self, total: int) -> None:
        """Add deferred task instances, up to ``total`` in all."""
        first = len(self.keys)
        command = [
            sys.executable, str(ROWS), self.kind, "--first", str(FIRST + first), "--count", str(total - first),
            "--folder", str(self.folder / "dags"), "--instance", INSTANCE,
        ]  # fmt: skip
        told = subprocess.run(command, env=self.airflow.env, capture_output=True, text=True, check=False)
        if told.returncode:
            raise RuntimeError(f"rows were not inserted:\n{told.stderr[-3000:]}")
        self.keys += [line.removeprefix("key ") for line in told.stdout.splitlines() if line.startswith("key ")]

    def wait_until_all_run(self) -> float:
        """Wait until every trigger has begun to write its log, and return the seconds that took."""
        began = time.monotonic()
        while (running := self._begun()) < len(self.keys):
            self._check(began, f"{running} of {len(self.keys)} triggers run")
            time.sleep(0.5)
        return time.monotonic() - began

    def _begun(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            return sum(1 for _ in self._logs.glob("map_index=*/*.trigger.*.log"))
        return 0

    def states(self) -> dict[str, int]:
        """Return how many waiting rows are in which state."""
        return dict(self._query("select state, count(*) from task_instance where map_index >= 0 group by state"))

    def values(self) -> int:
        """Return how many task instances have the right value, in XCom or on their way to a worker."""
        left = self._query("select map_index, value from xcom where key = 'return_value'")
        carried = self._query("select map_index, next_kwargs from task_instance where state = 'scheduled'")
        return sum(json.loads(value) == {"number": index} for index, value in left) + sum(
            f'"number": {index}' in kwargs for index, kwargs in carried
        )

    def _query(self, text: str) -> list[Any]:
        with contextlib.closing(sqlite3.connect(f"file:{self.airflow.home / 'airflow.db'}?mode=ro", uri=True)) as base:
            return base.execute(text).fetchall()

    def wait_until_none_waits(self) -> tuple[float, float]:
        """Wait until no row is deferred, and return the seconds that took, and the oldest heart-beat of that time."""
        began, oldest = time.monotonic(), 0.0
        while waiting := self.states().get("deferred", 0):
            self._check(began, f"{waiting} still wait")
            oldest = max(oldest, self._heartbeat_age())
            time.sleep(0.5)
        return time.monotonic() - began, oldest

    def _heartbeat_age(self) -> float:
        ((text,),) = self._query("select max(latest_heartbeat) from job where job_type = 'TriggererJob'")
        return (datetime.now(UTC) - datetime.fromisoformat(text).replace(tzinfo=UTC)).total_seconds()

    def _check(self, began: float, what: str) -> None:
        process = self.airflow.processes["triggerer"]
        if process.popen.poll() is not None or time.monotonic() - began > PATIENCE:
            raise RuntimeError(f"{self.kind}: {what} after {time.monotonic() - began:.0f} s\n{process.tail()}")

    def cpu(self) -> float:
        """Return the CPU seconds of all its processes so far."""
        times = [each.cpu_times() for each in self.airflow.processes["triggerer"].family()]
        return sum(each.user + each.system for each in times)

    def memory_mb(self) -> float:
        """Return the resident memory of all its processes."""
        return sum(each.memory_info().rss for each in self.airflow.processes["triggerer"].family()) / 2**20

    def blocked(self) -> int:
        """Return how often Airflow has said that the loop was blocked."""
        return self.airflow.processes["triggerer"].log.read_text(errors="replace").count(BLOCKED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """What waiting cost.

    :param tasks: how many waited.
    :param seconds: for how long it was measured.
    :param cpu: CPU seconds in that time, by kind.
    :param memory_mb: resident memory after it, by kind.
    :param blocked: warnings of a blocked loop in that time, by kind.
    :param requests: requests to PanDA in that time.
    :param start_seconds: from the rows to the last trigger's start, by kind.
    :param start_requests: requests to PanDA in that time and the settling after it.
    :param start_blocked: warnings of a blocked loop in that time, by kind.
    """

    tasks: int
    seconds: float
    cpu: dict[str, float]
    memory_mb: dict[str, float]
    blocked: dict[str, int]
    requests: int
    start_seconds: dict[str, float]
    start_requests: int
    start_blocked: dict[str, int]

    @property
    def cpu_ratio(self) -> float:
        """CPU of ours against the bare one's."""
        return self.cpu["ours"] / self.cpu["bare"]

    @property
    def requests_per_task_minute(self) -> float:
        """Requests to PanDA for a waiting task in a minute."""
        return self.requests / self.tasks / (self.seconds / 60)


def measure_idle(triggerers: Sequence[Triggerer], stand_in: StandIn, tasks: int, seconds: float, settle: float) -> Idle:
    """Let so many wait, and return what that costs."""
    asked, blocked = len(stand_in.panda.seen), {each.kind: each.blocked() for each in triggerers}
    stand_in.hold(tasks)
    for each in triggerers:
        each.insert(tasks)
    started = {each.kind: each.wait_until_all_run() for each in triggerers}
    time.sleep(settle)
    start_requests = len(stand_in.panda.seen) - asked
    before = {each.kind: each.blocked() for each in triggerers}
    asked, cpu, began = len(stand_in.panda.seen), {each.kind: each.cpu() for each in triggerers}, time.monotonic()
    time.sleep(seconds)
    spent = {each.kind: each.cpu() - cpu[each.kind] for each in triggerers}
    return Idle(
        tasks=tasks,
        seconds=time.monotonic() - began,
        cpu=spent,
        memory_mb={each.kind: each.memory_mb() for each in triggerers},
        blocked={each.kind: each.blocked() - before[each.kind] for each in triggerers},
        requests=len(stand_in.panda.seen) - asked,
        start_seconds=started,
        start_requests=start_requests,
        start_blocked={each.kind: before[each.kind] - blocked[each.kind] for each in triggerers},
    )


def publish_results(broker: ActiveMQ, keys: Sequence[str]) -> float:
    """Publish a result for each task, as worker nodes would all at once; return the seconds that took."""
    import stomp

    frames = []
    for number, key in enumerate(keys):
        now = time.time()
        report = {
            "task_key": key, "job": 0, "attempt": 1, "status": envelope.RETURNED, "encoding": "json",
            "payload": {"number": FIRST + number}, "exception": None, "start": now, "end": now, "host": "node",
            "site": None, "panda_id": number, "python": "3.12.1",
        }  # fmt: skip
        frames.append(envelope.message(report, envelope.sign(report, envelope.derive_key(SECRET, key)), name="f"))
    connection = stomp.Connection12([(broker.host, broker.port)])
    connection.connect(broker.publisher.name, broker.publisher.passcode, wait=True)
    began = time.monotonic()
    for headers, text in frames:
        connection.send("/topic/airflow.panda.results", text, headers=headers)
    took = time.monotonic() - began
    connection.disconnect()
    return took


def settings(broker: ActiveMQ, panda_url: str) -> dict[str, str]:
    """Return the environment of both triggerers."""
    stomp = {
        "conn_type": "stomp", "host": f"{broker.host}:{broker.port}",
        "login": broker.subscriber.name, "password": broker.subscriber.passcode,
    }  # fmt: skip
    panda = {
        "conn_type": "panda", "host": panda_url, "password": "token",
        "extra": {"auth": "token", "vo": "wlcg", "broker_conn_id": "broker_bench", "instance_secret": SECRET},
    }  # fmt: skip
    return {
        "AIRFLOW_CONN_BROKER_BENCH": json.dumps(stomp),
        "AIRFLOW_CONN_PANDA_BENCH": json.dumps(panda),
        "AIRFLOW__TRIGGERER__CAPACITY": "100000",
        "AIRFLOW__TRIGGERER__MAX_TRIGGER_TO_SELECT_PER_LOOP": "500",
    }


@contextlib.contextmanager
def running(folder: Path) -> Iterator[tuple[list[Triggerer], StandIn, ActiveMQ]]:
    """Both triggerers, with PanDA and the broker."""
    with ActiveMQ() as broker, scripted_panda() as panda, contextlib.ExitStack() as stack:
        stand_in = StandIn(panda)
        stand_in.hold(1)
        triggerers = []
        for kind in ("bare", "ours"):
            (folder / kind).mkdir()
            each = Triggerer(kind, folder / kind, settings(broker, panda.url))
            stack.callback(each.airflow.stop)
            each.start()
            triggerers.append(each)
        yield triggerers, stand_in, broker


def main() -> int:
    """Measure, print the tables, and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="+", default=[1000, 5000], help="waiting tasks (default: 1000 5000)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each measurement (default: %(default)s)")
    parser.add_argument("--settle", type=float, default=15.0, help="seconds before it (default: %(default)s)")
    given = parser.parse_args()
    if (reason := missing()) is not None:
        print(reason, file=sys.stderr)
        return 1
    with benchmark_folder() as folder, running(Path(folder)) as (triggerers, stand_in, broker):
        idle = [measure_idle(triggerers, stand_in, tasks, given.seconds, given.settle) for tasks in sorted(given.tasks)]
        (ours,) = [each for each in triggerers if each.kind == "ours"]
        blocked, cpu = ours.blocked(), ours.cpu()
        published = publish_results(broker, ours.keys)
        seconds, heartbeat_age = ours.wait_until_none_waits()
        resumed = published + seconds
        ended = {"states": ours.states(), "values": ours.values(), "blocked": ours.blocked() - blocked}
        ended |= {"cpu": ours.cpu() - cpu, "heartbeat_age": heartbeat_age}
    show(idle, len(ours.keys), resumed, published, ended)
    wrong = ended["values"] != len(ours.keys)
    if wrong:
        print(f"only {ended['values']} of {len(ours.keys)} have the right value: {ended['states']}", file=sys.stderr)
    return int(wrong)


def show(idle: Sequence[Idle], tasks: int, resumed: float, published: float, ended: dict[str, Any]) -> None:
    """Print the tables and the last line."""
    rows = []
    for each in idle:
        for kind in ("bare", "ours"):
            rows.append(
                (
                    f"{each.tasks:,} waiting, {kind}", f"{each.cpu[kind] / each.seconds * 100:.1f} %",
                    f"{each.cpu_ratio:.2f}" if kind == "ours" else "", f"{each.memory_mb[kind]:.0f}",
                    each.requests if kind == "ours" else "", each.blocked[kind], f"{each.start_seconds[kind]:.0f}",
                    each.start_requests if kind == "ours" else "", each.start_blocked[kind],
                )
            )  # fmt: skip
    print_table(
        ("idle", "CPU", "x bare", "MB", "requests", "blocked", "start s", "requests", "blocked"),
        rows,
    )
    print()
    print_table(
        ("all results at once", ""),
        [
            ("task instances", f"{tasks:,}"),
            ("publishing, s", f"{published:.1f}"),
            ("until none is deferred, s", f"{resumed:.1f}"),
            ("CPU of the triggerer, s", f"{ended['cpu']:.1f}"),
            ("oldest heart-beat meanwhile, s", f"{ended['heartbeat_age']:.1f}"),
            ("blocked-loop warnings", ended["blocked"]),
            ("states", ended["states"]),
            ("right values", f"{ended['values']:,}"),
        ],
    )
    figures = {
        "idle_cpu_ratio": round(max(each.cpu_ratio for each in idle), 3),
        "requests_per_task_minute": max(each.requests_per_task_minute for each in idle),
        "requests_per_task_hour": {each.tasks: round(each.requests_per_task_minute * 60, 4) for each in idle},
        "blocked_warnings": sum(each.blocked["ours"] for each in idle),
        "blocked_warnings_at_start": sum(each.start_blocked["ours"] for each in idle),
        "blocked_warnings_at_end": ended["blocked"],
        "idle_cpu_percent": {
            kind: {each.tasks: round(each.cpu[kind] / each.seconds * 100, 2) for each in idle}
            for kind in ("bare", "ours")
        },
        "memory_mb": {kind: {each.tasks: round(each.memory_mb[kind]) for each in idle} for kind in ("bare", "ours")},
        "start_requests": {each.tasks: each.start_requests for each in idle},
        "heartbeat_age_s": round(ended["heartbeat_age"], 1),
        "resume_s": round(resumed, 1),
        "resumed_per_s": round(tasks / resumed, 1),
    }
    finish(figures, TARGETS)


if __name__ == "__main__":
    sys.exit(main())
