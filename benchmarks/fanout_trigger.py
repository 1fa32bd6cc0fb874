"""What one wait for many jobs costs, from signed messages to the event and the operator's list. For ``fanout.py``.

Real: the wait with its tally, its event and its checks of signatures; where a broker is given, also the hub and the
messages, which another process publishes. Made up: no job runs, and what PanDA would answer of them is an object here.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import json
import logging
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator, Container, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from airflow_provider_panda.broker.endpoint import BrokerEndpoint
from airflow_provider_panda.broker.hub import get_hub
from airflow_provider_panda.grid.outcome import CallPolicy, Tally
from airflow_provider_panda.grid.panda import JOBS_AT_ONCE
from airflow_provider_panda.grid.task import JobRecord, TaskStatus, instance_id, phase_of, task_key
from airflow_provider_panda.hooks.panda import parse
from airflow_provider_panda.operators.homecoming import Reader, bring_home
from airflow_provider_panda.payload import envelope
from airflow_provider_panda.payload.delivery import broker_settings
from airflow_provider_panda.payload.result import read_body
from airflow_provider_panda.payload.runner import EXIT_RAISED
from airflow_provider_panda.payload.xcom import to_xcom
from airflow_provider_panda.triggers import wait as wait_module
from airflow_provider_panda.triggers.connections import SharedConnection
from airflow_provider_panda.triggers.event import FunctionEvent, filled
from airflow_provider_panda.triggers.wait import Awaited, Wait
from benchmarks.fanout_publisher import message_of, raises
from demo.processes import environment

SECRET: Final = "benchmark-instance-secret"
INSTANCE: Final = instance_id(SECRET)
TASK_ID: Final = 10_000_000
BATCH: Final = 1000


class MadeUpPanda:
    """PanDA's answers for a task that does not exist; its jobs are as the case says.

    :param jobs: how many it has.
    :param case: one of :data:`CASES`.
    """

    def __init__(self, jobs: int, case: str) -> None:
        self.jobs, self.case = jobs, case
        self.status_word = {"missing": "aborted", "given up": "done"}.get(case, "running")
        self.tally: Tally | None = None
        self.signing_key = b""
        self.key = ""
        self.generating = 0.0

    def _status(self) -> TaskStatus:
        return TaskStatus(
            task_id=TASK_ID, name="bench", status=self.status_word, phase=phase_of(self.status_word),
            jobs_total=self.jobs, jobs_finished=self.tally.returned if self.tally else 0,
        )  # fmt: skip

    async def statuses(self, processing_type: str, **_: Any) -> list[TaskStatus]:
        """List the one task."""
        return [self._status()]

    async def status(self, task_id: int) -> TaskStatus:
        """Return the one task's status."""
        return self._status()

    async def record_batches(
        self, task_id: int, *, without: Container[int] = frozenset()
    ) -> AsyncIterator[list[JobRecord]]:
        """Yield no record: messages are what is measured."""
        for nothing in ():
            yield nothing

    def records(self) -> Iterator[list[JobRecord]]:
        """Yield what an operator would read of the jobs; the seconds that making it up takes are counted."""
        for start in range(0, self.jobs, JOBS_AT_ONCE):
            began = time.perf_counter()
            batch = [self._record(job) for job in range(start, min(start + JOBS_AT_ONCE, self.jobs))]
            self.generating += time.perf_counter() - began
            yield batch

    def _record(self, job: int) -> JobRecord:
        told = {"panda_id": 5_000_000 + job, "job": job, "attempt": 1, "host": "node", "site": "SITE"}
        if raises(job, self.case):
            said = (
                f"payload 71: airflow-panda {self.key} job {job} attempt 1: OddError: {job} is odd; pilot 1305: Failed"
            )
            return JobRecord(**told, status="failed", exit_code=EXIT_RAISED, diagnostics=said)
        _, body = message_of(job, self.case, key=self.key, signing_key=self.signing_key)
        return JobRecord(**told, status="finished", report=json.loads(body))


@dataclass(frozen=True, slots=True, kw_only=True)
class Waited:
    """One wait that is over.

    :param jobs: how many jobs the task had.
    :param case: one of :data:`CASES`.
    :param cpu: seconds of processor time of the loop's thread, from the first result to the last.
    :param wall: seconds from the first result to the event.
    :param held: longest time in seconds for which the loop served nobody else.
    :param event: the event, as it came out of JSON.
    :param event_bytes: its size as JSON.
    :param event_cpu: seconds of processor time to make it.
    :param traced: bytes that the wait holds when every result is in, or None where it was not traced.
    """

    jobs: int
    case: str
    cpu: float
    wall: float
    held: float
    event: FunctionEvent
    event_bytes: int
    event_cpu: float
    traced: int | None


async def waited(jobs: int, case: str, *, broker: BrokerEndpoint | None = None, traced: bool = False) -> Waited:
    """Run one wait to its end.

    :param jobs: how many jobs.
    :param case: one of :data:`CASES`.
    :param broker: where another process publishes the results; None: they are handed to the wait straight away.
    :param traced: whether the wait's memory is measured, which makes everything slow.
    """
    wait_module.LATE_REPORTS = (0.01, 0.01, 0.01)  # type: ignore[misc]
    panda = MadeUpPanda(jobs, case)
    # A wait for the task's end as well holds still when all results are in, so that it can be looked at.
    wait = _wait(
        panda, broker, CallPolicy(n_jobs=jobs, on_job_error="collect", wait_for="task" if traced else "results")
    )
    silent = case in ("missing", "given up")
    if broker is None and not silent:
        messages(case, jobs)
    async with contextlib.AsyncExitStack() as stack:
        publisher = None
        if broker is not None:
            publisher = await stack.enter_async_context(_publisher(wait, panda, broker))
        held = await stack.enter_async_context(_lookout())
        over = asyncio.ensure_future(wait.until_over())
        await asyncio.sleep(0.3)
        before = _traced() if traced else 0
        held.clear()
        began, cpu = time.perf_counter(), time.thread_time()
        if publisher is not None:
            await _heard(wait, panda, publisher)
            cpu = time.thread_time() - cpu
        elif not silent:
            cpu = await _handed(wait, panda)
        else:
            cpu = 0.0
        holds = _traced() - before if traced else None
        tracemalloc.stop()
        if not silent:
            panda.status_word = "done" if traced else panda.status_word
        event = await over
        wall = time.perf_counter() - began
        text = json.dumps(event.to_json())
        bare = FunctionEvent(
            outcome=event.outcome, task_key=wait.key, task_id=TASK_ID, n_jobs=jobs, ended=False
        )  # fmt: skip
        cpu_of_event = time.thread_time()
        filled(bare, wait.tally)
        cpu_of_event = time.thread_time() - cpu_of_event
        return Waited(
            jobs=jobs, case=case, cpu=cpu, wall=wall, held=max(held, default=0.0),
            event=FunctionEvent.from_json(json.loads(text)), event_bytes=len(text), event_cpu=cpu_of_event,
            traced=holds,
        )  # fmt: skip


def _wait(panda: MadeUpPanda, broker: BrokerEndpoint | None, policy: CallPolicy) -> Wait:
    key = key_of(panda.case)
    connection = parse("bench", host="http://127.0.0.1:1", extra={"instance_secret": SECRET, "vo": "wlcg"})
    shared = SharedConnection(panda=connection, broker=broker, client=panda, idds=None)  # type: ignore[arg-type]
    awaited = Awaited(
        task_key=key, task_id=TASK_ID, task_name=f"bench-{key}", processing_type="bench", policy=policy
    )  # fmt: skip
    wait = Wait(awaited, shared, log=logging.getLogger("fanout"))
    panda.key, panda.signing_key, panda.tally = key, wait.signing_key, wait.tally
    return wait


def _traced() -> int:
    gc.collect()
    if not tracemalloc.is_tracing():
        tracemalloc.start()
    return tracemalloc.get_traced_memory()[0]


async def _handed(wait: Wait, panda: MadeUpPanda) -> float:
    """Hand every result to the wait, and let it look at each; return the seconds of processor time that took."""
    seconds = 0.0
    with messages(panda.case, panda.jobs).open() as file:
        while bodies := list(islice(file, BATCH)):
            began = time.thread_time()
            for body in bodies:
                wait._take_result(read_body(body, key=wait.signing_key, task_key=wait.key))
                await asyncio.sleep(0)
            seconds += time.thread_time() - began
    return seconds


def key_of(case: str) -> str:
    """Return the task key of a case."""
    return task_key(INSTANCE, case)


@functools.cache
def messages(case: str, jobs: int) -> Path:
    """Return a temporary file of the messages of all jobs, a line each: making them takes longer than reading them."""
    key = key_of(case)
    signing_key = envelope.derive_key(SECRET, key)
    path = Path(tempfile.mkdtemp(prefix="messages-"), "bodies")
    with path.open("w") as file:
        for job in range(jobs):
            file.write(message_of(job, case, key=key, signing_key=signing_key)[1] + "\n")
    return path


@contextlib.asynccontextmanager
async def _publisher(wait: Wait, panda: MadeUpPanda, broker: BrokerEndpoint) -> AsyncIterator[subprocess.Popen[str]]:
    """Start the publisher's process, and have the hub listen."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("fanout_publisher.py"))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(), start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    order = {
        "broker": broker_settings(broker), "signing_key": wait.signing_key.hex(), "key": wait.key, "jobs": panda.jobs,
        "case": panda.case,
    }  # fmt: skip
    try:
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        assert await asyncio.to_thread(process.stdout.readline) == "ready\n"
        hub = get_hub(broker, INSTANCE)
        with hub.wait_for("af" + INSTANCE + "x" * 14, key=b"", deliver=print) as listener:
            await listener.subscribed(20)
            yield process
    finally:
        process.kill()
        process.communicate()


async def _heard(wait: Wait, panda: MadeUpPanda, publisher: subprocess.Popen[str]) -> None:
    """Let the publisher go, and wait until every result was heard."""
    assert publisher.stdin is not None
    publisher.stdin.write("go\n")
    publisher.stdin.flush()
    async with asyncio.timeout(120):
        while wait.tally.settled < panda.jobs:
            await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def _lookout() -> AsyncIterator[list[float]]:
    """Note how long the loop keeps one waiting who wants but a millisecond."""
    late: list[float] = []

    async def look() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            late.append(time.perf_counter() - began - 0.001)

    looking = asyncio.ensure_future(look())
    try:
        yield late
    finally:
        looking.cancel()


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """What the operator does with an event.

    :param seconds: time it takes, without PanDA's.
    :param requests: descriptions of 100 jobs asked of PanDA.
    :param xcom_bytes: the XCom as JSON.
    """

    seconds: float
    requests: int
    xcom_bytes: int


def resumed(wait: Waited) -> Resumed:
    """Bring home what a wait told of, as the operator does: from the event, or from PanDA's (made up) record."""
    from airflow.sdk.serde import serialize

    panda = MadeUpPanda(wait.jobs, wait.case)
    panda.key, panda.signing_key = wait.event.task_key, envelope.derive_key(SECRET, wait.event.task_key)
    requests = 0

    class Grid:
        def record_batches(self, task_id: int) -> Iterator[list[JobRecord]]:
            nonlocal requests
            for batch in panda.records():
                requests += 1
                yield batch

    reader = Reader(
        task_key=wait.event.task_key, signing_key=panda.signing_key, allow_pickle=False, result_store=None
    )  # fmt: skip
    began = time.perf_counter()
    home = bring_home(wait.event, reader, Grid())  # type: ignore[arg-type]
    seconds = time.perf_counter() - began - panda.generating
    assert len(home) == wait.jobs
    return Resumed(seconds=seconds, requests=requests, xcom_bytes=len(json.dumps(serialize(to_xcom(home)))))
