"""One task of 1,000, 10,000 and 100,000 jobs: what it costs to send it off, to wait for it, and to bring it home.

Real: packing, upload and submission to the embedded grid (which takes the task and starts none of its jobs), ActiveMQ,
the trigger's wait and its event, the operator's gathering; with --expand also a whole Airflow and 100 jobs that run.
Simulated: the results of all other jobs. Up to 10,000 of them are published by another process through ActiveMQ; all of
them are, in another pass, handed to the wait straight away, and of 100,000 only so. What PanDA would answer of these
jobs is made up.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gzip
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

if __name__ == "__main__":
    sys.path.pop(0)  # this folder, where airflow.py would be taken for Airflow
sys.path.insert(0, str(Path(__file__).parents[1]))

import httpx
import psutil

from airflow_provider_panda.grid.endpoint import AuthKind, PandaEndpoint
from airflow_provider_panda.grid.names import processing_type, task_name
from airflow_provider_panda.grid.panda import PandaGrid
from airflow_provider_panda.grid.parameters import task_parameters
from airflow_provider_panda.grid.task import TaskSpec, instance_id, task_key
from airflow_provider_panda.payload.command import Environment, job_command
from airflow_provider_panda.payload.package import Archive, build_archive
from benchmarks.report import Target, finish, print_table, spread
from demo.grid import Grid
from tests.stack.activemq import ActiveMQ

SIZES: Final = (1_000, 10_000, 100_000)
THROUGH_BROKER: Final = 10_000
"""Jobs up to which results come through ActiveMQ as well."""

DESCRIBED: Final = 300
"""Jobs that the embedded grid makes, to see what reading their descriptions takes."""

ALL_TARGETS: Final = (
    Target(key="submit_10000_s", limit=5),
    Target(key="archive_bytes_per_job", limit=200),
    Target(key="gather_ratio", limit=1.5),
    Target(key="trigger_bytes_per_job", limit=1024),
    Target(key="event_bytes", limit=65536),
)


def square(n: int) -> int:
    """The benchmark's function."""
    return n * n


# --- sending off --------------------------------------------------------------------------------------------


def pack(jobs: int, first: int = 0) -> Archive:
    """Pack a mapped call whose arguments begin with ``first``."""
    return build_archive(square, per_job=[{"n": first + job} for job in range(jobs)])


def beyond_arguments(archive: int, archive_of_one: int, arguments: int, jobs: int) -> float:
    """Return the bytes that a job adds to an archive beyond its arguments.

    :param archive: bytes of the archive of ``jobs`` jobs.
    :param archive_of_one: bytes of the archive of one job.
    :param arguments: bytes of the arguments of all jobs alone, compressed in the same way.
    """
    return (archive - archive_of_one - arguments) / jobs


def arguments_alone(jobs: int, first: int = 0) -> int:
    """Return the bytes of the arguments alone: a line of JSON each, compressed."""
    return len(gzip.compress("".join(f"{json.dumps(first + job)}\n" for job in range(jobs)).encode(), 6))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One task that was sent off; seconds of each step, and bytes.

    :param upload_floor: seconds of a plain HTTP upload of the same bytes.
    :param submit_bytes: the task parameters as JSON.
    """

    pack: float
    upload: float
    submit: float
    upload_floor: float
    archive_bytes: int
    submit_bytes: int

    @property
    def total(self) -> float:
        """Seconds of all steps."""
        return self.pack + self.upload + self.submit


class Sender:
    """Sends tasks to an embedded grid that starts none of their jobs."""

    def __init__(self, grid: Grid) -> None:
        self.grid, self.token = grid, grid.token()
        endpoint = PandaEndpoint(url=grid.url, auth=AuthKind.TOKEN, token=self.token, vo="wlcg")
        self.panda = PandaGrid(endpoint)

    def spec(self, archive: Archive) -> TaskSpec:
        """Return the task of an archive, as the operator makes it."""
        instance = instance_id("benchmark-instance-secret")
        key = task_key(instance, str(uuid.uuid4()))
        command = job_command(
            archive=archive, cache_url=self.grid.url, task_key=key, environment=Environment(python=sys.executable),
            secret_name="S", result_store=None,
        )  # fmt: skip
        return TaskSpec(
            key=key, name=task_name("bench", "fanout", "run", key), n_jobs=archive.n_jobs, command=command,
            archive_name=archive.name, processing_type=processing_type(instance),
        )  # fmt: skip

    def send(self, jobs: int, first: int) -> Sent:
        """Pack, upload and submit one task."""
        archive, packing = timed(lambda: pack(jobs, first))
        _, uploading = timed(lambda: self.panda.upload(archive.name, archive.content))
        spec = self.spec(archive)
        _, submitting = timed(lambda: self.panda.submit(spec))
        parameters = task_parameters(spec, vo="wlcg", source_url=self.grid.url, defaults=self.panda.defaults)
        return Sent(
            pack=packing, upload=uploading, submit=submitting, upload_floor=self.plain_upload(archive.content),
            archive_bytes=len(archive.content), submit_bytes=len(json.dumps(parameters)),
        )  # fmt: skip

    def plain_upload(self, content: bytes) -> float:
        """Return the seconds of a plain HTTP upload, on a connection that is open already."""
        name = f"sources.{uuid.uuid4().hex}.tar.gz"
        with httpx.Client(
            headers={"Authorization": f"Bearer {self.token}", "Origin": "wlcg", "Accept": "application/json"},
            timeout=60,
        ) as http:
            http.get(f"{self.grid.url}/api/v1/system/is_alive")
            answer, seconds = timed(
                lambda: http.post(
                    f"{self.grid.url}/api/v1/file_server/upload_cache_file", files={"file": (name, content)}
                )
            )
        assert answer.json()["success"], answer.text
        return seconds

    def describe(self, jobs: int) -> float:
        """Return the milliseconds in which the embedded grid describes one job, 100 in a request."""
        archive = pack(jobs)
        self.panda.upload(archive.name, archive.content)
        task_id = self.panda.submit(self.spec(archive))
        end = time.monotonic() + 60
        while len(ids := self._made(task_id)) < jobs:
            if time.monotonic() > end:
                raise TimeoutError(f"the embedded grid made {len(ids)} of {jobs} jobs")
            time.sleep(0.2)
        records, seconds = timed(lambda: self.panda.jobs(task_id, ids))
        assert len(records) == jobs
        return seconds / jobs * 1000

    def _made(self, task_id: int) -> list[int]:
        try:
            return self.panda.job_ids(task_id)
        except Exception:
            return []  # not registered yet


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    """Return what an action returns, and the seconds it took."""
    began = time.perf_counter()
    result = action()
    return result, time.perf_counter() - began


def send_off(folder: Path, sizes: Sequence[int], rounds: int) -> tuple[dict[int, list[Sent]], float]:
    """Send tasks of each size off, and read descriptions of jobs."""
    sent: dict[int, list[Sent]] = {size: [] for size in sizes}
    grid = Grid(folder / "idle", ["--slots", "0", "--register-delay", "3600"])
    try:
        sender = Sender(grid)
        sender.send(10, 0)  # imports, first connection
        for number in range(rounds):
            for size in sizes:
                # Other arguments each time, for the same archive would be in the cache already.
                if number == 0 or size < max(SIZES):
                    sent[size].append(sender.send(size, (number + 1) * 10_000_000))
    finally:
        grid.stop()
    grid = Grid(folder / "describing", ["--slots", "0"])
    try:
        return sent, Sender(grid).describe(min(DESCRIBED, max(sizes)))
    finally:
        grid.stop()


# --- what it comes to ---------------------------------------------------------------------------------------


def sent_figures(sent: Mapping[int, Sequence[Sent]]) -> dict[str, Any]:
    """Return the figures of sending off."""
    one = len(pack(1).content)
    per_job = {
        size: round(beyond_arguments(all_[0].archive_bytes, one, arguments_alone(size, 10_000_000), size), 3)
        for size, all_ in sent.items()
    }
    medians = {size: statistics.median(each.total for each in all_) for size, all_ in sent.items()}
    return {
        **{f"submit_{size}_s": round(median, 3) for size, median in medians.items()},
        "archive_bytes_per_job": max(per_job.values()),
        "archive_bytes_per_job_by_n": per_job,
        "archive_bytes": {size: all_[0].archive_bytes for size, all_ in sent.items()},
        "submit_bytes": {size: all_[0].submit_bytes for size, all_ in sent.items()},
        "upload_floor_s": {
            size: round(statistics.median(each.upload_floor for each in all_), 4) for size, all_ in sent.items()
        },
    }


def print_sent(sent: Mapping[int, Sequence[Sent]], described: float) -> None:
    """Print what sending off took."""
    rows = []
    for size, all_ in sent.items():
        steps = [
            spread([getattr(each, step) * 1000 for each in all_], digits=1)
            for step in ("pack", "upload", "submit", "total", "upload_floor")
        ]
        rows.append((f"{size:,} jobs", *steps, f"{all_[0].archive_bytes:,}", f"{all_[0].submit_bytes:,}"))
    print("SENDING OFF, ms: median (least-most)")
    print_table(
        ("task of", "pack", "upload", "submit", "all three", "plain upload", "archive bytes", "submit bytes"), rows
    )
    print(f"the embedded grid describes a job in {described:.2f} ms, 100 in a request\n")


def by_size(waits: Sequence[Any], figure: Callable[[Any], float]) -> dict[int, float]:
    """Return the median of a figure for each number of jobs."""
    sizes = sorted({wait.jobs for wait in waits})
    return {size: statistics.median(figure(wait) for wait in waits if wait.jobs == size) for size in sizes}


def growth(per_result: Mapping[int, float]) -> float:
    """Return how many times more one result costs among the most than among the fewest."""
    return per_result[max(per_result)] / per_result[min(per_result)]


def wait_and_resume(sizes: Sequence[int], rounds: int, broker: ActiveMQ) -> dict[str, Any]:
    """Measure waits and what operators do with their events; print it, and return the figures."""
    from benchmarks.fanout_publisher import CASES
    from benchmarks.fanout_trigger import resumed, waited
    from benchmarks.roundtrip import broker_endpoint

    endpoint = broker_endpoint(broker)
    small, middle = min(sizes), max(size for size in sizes if size <= THROUGH_BROKER)

    async def measured() -> tuple[list[Any], list[Any], list[Any], list[Any]]:
        await waited(small, "returned")  # imports
        handed = [
            await waited(size, "returned")
            for number in range(rounds)
            for size in sizes
            if number < (rounds if size < 10_000 else 3 if size < 100_000 else 1)
        ]
        # Tracing makes everything four times as slow: among the most jobs, only of what holds the most.
        traced = [
            await waited(size, case, traced=True)
            for size in sizes
            for case in ("returned", "failed")
            if size <= THROUGH_BROKER or case == "failed"
        ]
        traced.append(await waited(middle, "returned", broker=endpoint, traced=True))
        others = [await waited(size, case) for size in sizes for case in CASES if case not in ("returned", "failed")]
        heard = [
            await waited(size, case, broker=endpoint)
            for size in sorted({small, middle})
            for case in ("returned", "failed")
        ]
        return handed, traced, others, heard

    handed, traced, others, heard = asyncio.run(measured())
    seen = {(wait.case, wait.jobs): wait for wait in (*handed, *traced, *others, *heard)}
    operators = {key: resumed(wait) for key, wait in seen.items() if key[1] <= 10_000 and key[0] != "missing"}
    gather = {size: value * 1e6 for size, value in by_size(handed, lambda wait: wait.cpu / wait.jobs).items()}
    figures = {
        "gather_us_per_result": {size: round(value, 1) for size, value in gather.items()},
        "gather_ratio": round(growth(gather), 3),
        "trigger_bytes_per_job": round(max(wait.traced / wait.jobs for wait in traced)),
        "trigger_bytes_per_job_by_n": {
            f"{wait.case} {wait.jobs}{' through ActiveMQ' if wait is traced[-1] else ''}": round(
                wait.traced / wait.jobs
            )
            for wait in traced
        },
        "event_bytes": max(wait.event_bytes for wait in seen.values()),
        "event_bytes_by_case": {f"{case} {jobs}": wait.event_bytes for (case, jobs), wait in sorted(seen.items())},
        "event_cpu_ms": round(max(wait.event_cpu for wait in seen.values()) * 1000, 1),
        "loop_held_ms": round(max(wait.held for wait in heard) * 1000, 1),
        "through_broker_s": {f"{wait.case} {wait.jobs}": round(wait.wall, 2) for wait in heard},
        "operator_s": {f"{case} {jobs}": round(each.seconds, 3) for (case, jobs), each in sorted(operators.items())},
        "xcom_bytes": {f"{case} {jobs}": each.xcom_bytes for (case, jobs), each in sorted(operators.items())},
    }
    print_waits(seen, traced, gather, operators)
    print_heard(heard)
    return figures


def print_waits(seen: Any, traced: Sequence[Any], gather: Mapping[int, float], operators: Any) -> None:
    """Print what waits, their events and their operators took."""
    memory = {(wait.case, wait.jobs): wait.traced / wait.jobs for wait in traced}
    rows = []
    for (case, jobs), wait in sorted(seen.items(), key=lambda item: (item[0][1], item[0][0])):
        then = operators.get((case, jobs))
        rows.append(
            (
                f"{jobs:,} {case}",
                f"{gather[jobs]:.1f}" if case == "returned" else "",
                f"{memory[case, jobs]:,.0f}" if (case, jobs) in memory else "",
                f"{wait.event_bytes:,}",
                f"{wait.event_cpu * 1000:.1f}",
                "event" if wait.event.results is not None and not wait.event.failures_left_out else "PanDA's record",
                f"{then.seconds:.3f}" if then else "",
                then.requests if then else "",
                f"{then.xcom_bytes:,}" if then else "",
            )
        )
    print("ONE WAIT: results handed to it; the operator's time is without PanDA's, whose record is made up")
    print_table(
        ("jobs", "us a result", "bytes held a job", "event bytes", "ms to make it", "read from", "operator s",
         "requests", "XCom bytes"), rows,
    )  # fmt: skip
    print()


def print_heard(heard: Sequence[Any]) -> None:
    """Print what waits took whose results came through ActiveMQ."""
    print("ONE WAIT through ActiveMQ: another process publishes")
    rows = [
        (
            f"{wait.jobs:,} {wait.case}",
            f"{wait.wall:.2f}",
            f"{wait.wall / wait.jobs * 1e6:.0f}",
            f"{wait.held * 1000:.1f}",
        )
        for wait in heard
    ]
    print_table(("jobs", "s to the event", "us a result", "loop held at most, ms"), rows)
    print()


def expand(count: int) -> dict[str, Any]:
    """Measure the same jobs by ``map_over`` and by ``.expand``; print it, and return the figures."""
    from benchmarks.fanout_expand import ways

    seconds = ways(count)
    print(f"A REAL AIRFLOW, {count} jobs that run on the embedded grid, both DAG runs from their start to their end")
    print_table(("way", "s", "s a job"), [(way, f"{took:.1f}", f"{took / count:.2f}") for way, took in seconds.items()])
    print()
    return {f"{way}_{count}_s": round(took, 1) for way, took in seconds.items()}


def end_children() -> None:
    """End what this process started and an interrupt kept from being stopped in order."""
    family = psutil.Process().children(recursive=True)
    for each in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(family, timeout=10)


def main() -> None:
    """Measure, print tables, and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs="+", default=SIZES, metavar="N", help="sizes of tasks")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of what is quick (default: %(default)s)")
    parser.add_argument("--expand", type=int, default=100, metavar="N", help="jobs in Airflow (default: %(default)s)")
    parser.add_argument("--no-expand", action="store_true", help="without Airflow, which takes two minutes more")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="fanout-"))
    os.environ.update(
        AIRFLOW_HOME=str(folder / "home"), AIRFLOW__LOGGING__LOGGING_LEVEL="ERROR", AIRFLOW__PANDA__POLL_INTERVAL="1",
        TMPDIR=str(folder),
    )  # fmt: skip
    tempfile.tempdir = str(folder)
    figures: dict[str, Any] = {"jobs": list(given.jobs), "rounds": given.rounds}
    try:
        sent, described = send_off(folder, given.jobs, given.rounds)
        print_sent(sent, described)
        figures |= {**sent_figures(sent), "describe_ms_per_job": round(described, 2)}
        with ActiveMQ() as broker:
            figures |= wait_and_resume(given.jobs, given.rounds, broker)
        if not given.no_expand:
            figures |= expand(given.expand)
    finally:
        end_children()
        shutil.rmtree(folder, ignore_errors=True)
    finish(figures, [target for target in ALL_TARGETS if target.key in figures])


if __name__ == "__main__":
    main()
