"""The triggerer's client and its status board."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from airflow_provider_panda.exceptions import (
    GridAuthError,
    GridError,
    GridRefusedError,
    GridServerError,
    GridUnreachableError,
    TaskNotFoundError,
)
from airflow_provider_panda.grid import board as board_module
from airflow_provider_panda.grid import watch
from airflow_provider_panda.grid.answers import KillOutcome
from airflow_provider_panda.grid.board import ALONE_AFTER, LOOKED_AT_ALONE, StatusBoard
from airflow_provider_panda.grid.endpoint import AuthKind, PandaEndpoint
from airflow_provider_panda.grid.retry import RetryPolicy
from airflow_provider_panda.grid.task import TaskStatus, phase_of
from airflow_provider_panda.grid.watch import AsyncPandaClient
from tests.stack.scripted_panda import (
    Script,
    ScriptedPanda,
    Seen,
    body,
    envelope,
    lose,
    refusal,
    scripted_panda,
    stall,
    status,
    trickle,
)

KIND = "airflow-abcd"
FAST = RetryPolicy(attempts=3, first=0.01, longest=0.01)


@pytest.fixture
def panda() -> Iterator[ScriptedPanda]:
    with scripted_panda() as server:
        yield server


def client(panda: ScriptedPanda, **fields: object) -> AsyncPandaClient:
    endpoint = PandaEndpoint(url=panda.url, auth=AuthKind.TOKEN, token="sesame", vo="wlcg", **fields)  # type: ignore[arg-type]
    return AsyncPandaClient(endpoint, kill_policy=FAST)


def row(task_id: int, state: str = "running") -> dict[str, object]:
    return {"jediTaskID": task_id, "taskName": f"t{task_id}", "status": state, "processingType": KIND}


async def test_statuses_and_status(panda: ScriptedPanda) -> None:
    panda.on("task/get_tasks_detailed_info_since", envelope([row(1), row(2, "done")]))
    panda.on("task/get_detailed_info", envelope(row(3)), refusal("Task not found or error retrieving task info"))
    one = client(panda)
    since = datetime.fromisoformat("2026-11-22T12:00:00+01:00")
    assert [told.status for told in await one.statuses(KIND, since=since)] == ["running", "done"]
    sent = panda.seen[0]
    assert sent.query["since"] == ["2026-11-22 11:00:00"]
    assert json.loads(sent.query["filters"][0]) == {"processingType": KIND}
    assert sent.headers["Authorization"] == "Bearer sesame"
    assert sent.headers["Accept"] == "application/json"
    assert (await one.status(3)).task_id == 3
    with pytest.raises(TaskNotFoundError):
        await one.status(3)
    await one.aclose()


async def test_a_full_listing_is_completed_by_a_brief_one(
    panda: ScriptedPanda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "TASKS_AT_ONCE", 2)
    foreign = {**row(4), "processingType": "another"}
    brief = {str(each["jediTaskID"]): each for each in (row(2, "old news"), row(3, "done"), foreign)}
    panda.on("task/get_tasks_detailed_info_since", envelope([row(1), row(2)]), envelope([row(1)]))
    panda.on("task/get_tasks_modified_since", envelope(brief))
    one = client(panda)
    since = datetime.fromisoformat("2026-11-22T12:00:00+00:00")

    told = await one.statuses(KIND, since=since, oldest=1)
    assert [(each.task_id, each.status) for each in told] == [(1, "running"), (2, "running"), (3, "done")]
    (asked,) = panda.calls("task/get_tasks_modified_since")
    assert asked.query == {
        "since": ["2026-11-22 12:00:00"], "full": ["False"], "prod_source_label": ["user"], "min_task_id": ["0"],
    }  # fmt: skip

    await one.statuses(KIND, since=since, oldest=1)
    assert len(panda.calls("task/get_tasks_modified_since")) == 1


async def test_a_refused_brief_listing_does_not_cost_the_full_one(
    panda: ScriptedPanda, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watch, "TASKS_AT_ONCE", 1)
    panda.on("task/get_tasks_detailed_info_since", envelope([row(1)]))
    panda.on("task/get_tasks_modified_since", refusal("no such method"), status(500), envelope({"2": row(2)}))
    one = client(panda)
    since = datetime.fromisoformat("2026-11-22T12:00:00+00:00")

    told = [[each.task_id for each in await one.statuses(KIND, since=since)] for _ in range(3)]
    assert told == [[1], [1], [1, 2]]
    assert caplog.text.count("the short listing failed") == 1


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (status(403, "expired"), GridAuthError),
        (status(500), GridServerError),
        (body("<html>"), GridServerError),
        (body('{"succ'), GridServerError),
        (lose(), GridUnreachableError),
        (refusal("no"), GridRefusedError),
    ],
)
async def test_faults(panda: ScriptedPanda, script: Script, kind: type[GridError]) -> None:
    panda.on("task/get_detailed_info", script)
    with pytest.raises(kind):
        await client(panda).status(1)


@pytest.mark.parametrize("fault", ["stall", "trickle"])
async def test_the_deadline_is_a_total_one_and_the_loop_goes_on(panda: ScriptedPanda, fault: str) -> None:
    panda.on("task/get_detailed_info", stall(panda) if fault == "stall" else trickle(panda, head=False))
    panda.on("task/get_job_ids", envelope([]))
    slow = asyncio.create_task(client(panda, timeout=0.5).status(1))
    assert await client(panda).job_records(1) == []
    assert not slow.done()
    with pytest.raises(GridUnreachableError, match=r"within 0\.5 s"):
        await asyncio.wait_for(slow, 60)


async def test_large_answers_are_decoded_off_the_loop(panda: ScriptedPanda, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    real = watch.answers.read_answer

    def spy(*args, **named):  # type: ignore[no-untyped-def]
        threads.append(threading.current_thread().name)
        return real(*args, **named)

    monkeypatch.setattr(watch.answers, "read_answer", spy)
    rows = [{**row(number), "errorDialog": "x" * 1000} for number in range(100)]
    panda.on("task/get_tasks_detailed_info_since", envelope(rows), envelope(rows[:1]))
    one = client(panda)
    assert len(await one.statuses(KIND)) == 100
    assert len(await one.statuses(KIND)) == 1
    assert threads[0] != threading.current_thread().name
    assert threads[1] == threading.current_thread().name


async def test_job_records_and_reports(panda: ScriptedPanda) -> None:
    def describe(handler: BaseHTTPRequestHandler, seen: Seen) -> None:
        jobs = [
            {
                "PandaID": number,
                "attemptNr": 1,
                "jobStatus": "finished",
                "metadata": '{"x": 1}',
                "Files": [{"type": "pseudo_input", "lfn": f"000000:j{number}"}],
            }
            for number in seen.json["job_ids"]
        ]
        envelope(jobs)(handler, seen)

    panda.on("task/get_job_ids", envelope(list(range(150))))
    panda.on("job/get_description", describe)
    one = client(panda)
    records = await one.job_records(5)
    assert [record.job for record in records] == list(range(150))
    assert [record.report for record in await one.reports([3])] == [{"x": 1}]
    assert [len(seen.json["job_ids"]) for seen in panda.calls("job/get_description")] == [100, 50, 1]


async def test_kill(panda: ScriptedPanda) -> None:
    unknown = refusal("not the task owner or no production role")
    panda.on("task/kill", unknown, envelope(0))
    assert await client(panda).kill(4) is KillOutcome.REGISTERED
    panda.on("task/kill", unknown)
    with pytest.raises(TaskNotFoundError):
        await client(panda).kill(4)


@pytest.mark.parametrize("times", [1, 2])
def test_few_kills_are_under_way_at_once(panda: ScriptedPanda, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """A DAG run that is marked failed may end a thousand tasks, and any loop may do so."""
    under_way, most = 0, 0

    async def post(method: str, body: object, read: object) -> KillOutcome:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return KillOutcome.REGISTERED

    one = client(panda)
    monkeypatch.setattr(one, "_post", post)

    async def kill_many() -> None:
        await asyncio.gather(*(one.kill(number) for number in range(50)))

    for _ in range(times):
        asyncio.run(kill_many())
    assert most == watch.KILLS_AT_ONCE


async def test_a_kill_is_tried_as_often_as_its_caller_says(panda: ScriptedPanda) -> None:
    panda.on("task/kill", status(502))
    with pytest.raises(GridServerError):
        await client(panda).kill(4, policy=RetryPolicy(attempts=1))
    assert len(panda.seen) == 1


async def test_a_renewed_token_file_is_used(panda: ScriptedPanda, tmp_path: Path) -> None:
    file = tmp_path / "token"
    panda.on("task/get_job_ids", envelope([]))
    one = AsyncPandaClient(PandaEndpoint(url=panda.url, auth=AuthKind.TOKEN_FILE, token_file=str(file), vo="wlcg"))
    for token in ("first", "second-token"):
        file.write_text(token)
        await one.job_records(1)
    assert [seen.headers["Authorization"] for seen in panda.seen] == ["Bearer first", "Bearer second-token"]


def test_one_client_on_two_loops(panda: ScriptedPanda) -> None:
    panda.on("task/get_job_ids", envelope([]))
    one = client(panda)
    assert asyncio.run(one.job_records(1)) == []
    assert asyncio.run(one.job_records(1)) == []


# --- the board ----------------------------------------------------------------------------------------------


class Source:
    """Scripted statuses; a round is over when ``asked`` counts on."""

    def __init__(self) -> None:
        self.listing: list[TaskStatus] | GridError = []
        self.alone: dict[int, TaskStatus | GridError] = {}
        self.lists = 0
        self.single: list[int] = []
        self.since: datetime | None = None
        self.oldest: int | None = None
        self.asked = asyncio.Condition()

    async def statuses(
        self, processing_type: str, *, since: datetime | None = None, oldest: int | None = None
    ) -> list[TaskStatus]:
        assert processing_type == KIND
        self.since, self.oldest = since, oldest
        async with self.asked:
            self.lists += 1
            self.asked.notify_all()
        if isinstance(self.listing, GridError):
            raise self.listing
        return list(self.listing)

    async def status(self, task_id: int) -> TaskStatus:
        self.single.append(task_id)
        told = self.alone.get(task_id, TaskNotFoundError("unknown"))
        if isinstance(told, GridError):
            raise told
        return told

    async def rounds(self, more: int) -> None:
        """Wait for more listings, and for what the last but one led to."""
        goal = self.lists + more + 1
        async with asyncio.timeout(60), self.asked:
            await self.asked.wait_for(lambda: self.lists >= goal)


def told(task_id: int, state: str = "running") -> TaskStatus:
    return TaskStatus(task_id=task_id, name=f"t{task_id}", status=state, phase=phase_of(state))


@pytest.fixture
async def source() -> Source:
    return Source()


def board(source: Source) -> StatusBoard:
    return StatusBoard(source, KIND, interval=0.01, first_after=0.01)


async def test_one_request_serves_all_who_wait(source: Source) -> None:
    heard: dict[int, list[str]] = {1: [], 2: [], 3: []}
    one = board(source)

    def deliver(task_id: int) -> Callable[[TaskStatus], None]:
        return lambda status: heard[task_id].append(status.status)

    source.listing = [told(1), told(2, "done"), told(99)]
    registrations = [one.register(number, name=f"k{number}", deliver=deliver(number)) for number in heard]
    assert one.polling
    await source.rounds(1)
    assert set(heard[1]) == {"running"}
    assert set(heard[2]) == {"done"}
    assert heard[3] == []
    assert registrations[0].latest == told(1)
    assert source.since is not None
    assert source.oldest == 1
    for registration in registrations:
        registration.close()


async def test_the_board_stops_when_nobody_waits_and_starts_again(source: Source) -> None:
    one = board(source)
    for _ in range(2):
        with one.register(1, name="k", deliver=lambda _: None):
            await source.rounds(1)
        async with asyncio.timeout(60):
            while one.polling:
                await asyncio.sleep(0)
    stopped = source.lists
    await asyncio.sleep(0.05)
    assert source.lists == stopped


async def test_nothing_is_delivered_after_closing(source: Source) -> None:
    one = board(source)
    heard: list[TaskStatus] = []
    source.listing = [told(1), told(2)]
    closed = one.register(1, name="k1", deliver=heard.append)
    with one.register(2, name="k2", deliver=lambda _: None):
        closed.close()
        await source.rounds(2)
    assert heard == []


async def test_a_task_missing_for_long_is_asked_for_alone(source: Source, caplog: pytest.LogCaptureFixture) -> None:
    one = board(source)
    heard: list[str] = []
    source.alone[1] = told(1, "finished")
    source.listing = [told(2)]
    with (
        one.register(1, name="k1", deliver=lambda status: heard.append(status.status)),
        one.register(2, name="k2", deliver=lambda _: None),
        one.register(3, name="k3", deliver=lambda _: pytest.fail("never visible")),
    ):
        await source.rounds(ALONE_AFTER - 2)
        assert source.single == []
        await source.rounds(4)
    assert set(source.single) == {1, 3}
    assert set(heard) == {"finished"}
    assert caplog.text.count("does not show task 3") == 1


async def test_a_refused_listing_falls_back_to_single_questions(source: Source) -> None:
    one = board(source)
    heard: list[str] = []
    source.listing = GridRefusedError("no such method")
    source.alone[1] = told(1)
    with one.register(1, name="k1", deliver=lambda status: heard.append(status.status)):
        await source.rounds(ALONE_AFTER + 1)
    assert set(heard) == {"running"}


async def test_errors_are_logged_once_per_kind_and_fail_nobody(
    source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    one = board(source)
    heard: list[str] = []
    source.listing = GridUnreachableError("refused")
    with one.register(1, name="k1", deliver=lambda status: heard.append(status.status)):
        await source.rounds(3)
        assert caplog.text.count("refused") == 1
        source.listing = GridAuthError("expired")
        await source.rounds(3)
        assert caplog.text.count("expired") == 1
        source.listing = [told(1)]
        await source.rounds(2)
        assert caplog.text.count("work again") == 1
        assert one.polling
    assert set(heard) == {"running"}
    assert source.single == []


async def test_a_broken_listener_harms_no_other(source: Source, caplog: pytest.LogCaptureFixture) -> None:
    one = board(source)
    heard: list[TaskStatus] = []

    def broken(_: TaskStatus) -> None:
        raise RuntimeError("listener")

    source.listing = [told(1), told(2)]
    with one.register(1, name="k1", deliver=broken), one.register(2, name="k2", deliver=heard.append):
        await source.rounds(2)
    assert heard
    assert "could not be delivered" in caplog.text


def test_pauses_grow_after_errors() -> None:
    waited: list[float] = []

    class Recorded(StatusBoard):
        async def _pause(self, seconds: float) -> None:
            waited.append(seconds)
            await asyncio.sleep(0)

    async def run() -> None:
        source = Source()
        source.listing = GridServerError("x")
        one = Recorded(source, KIND, interval=10, first_after=1)
        with one.register(1, name="k", deliver=lambda _: None):
            await source.rounds(6)
            source.listing = []
            await source.rounds(1)

    asyncio.run(run())
    assert waited[0] == 1
    assert [round(seconds) for seconds in waited[1:7]] == [20, 40, 80, 160, 180, 180]
    assert round(waited[-1]) == 10, "it answers again"


def test_a_server_that_asks_to_be_left_alone_is_so_at_first() -> None:
    waited: list[float] = []

    class Recorded(StatusBoard):
        async def _pause(self, seconds: float) -> None:
            waited.append(seconds)
            await asyncio.sleep(0)

    async def run() -> None:
        source = Source()
        source.listing = GridServerError("x", retry_after=45)
        one = Recorded(source, KIND, interval=10, first_after=1)
        with one.register(1, name="k", deliver=lambda _: None):
            await source.rounds(2)

    asyncio.run(run())
    assert round(waited[1]) == 45


async def test_one_answer_to_one_task_ends_the_back_off_of_all(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_module, "LISTING_PAUSE", 0.0)
    source.listing = GridUnreachableError("down")
    one = StatusBoard(source, KIND, interval=3600, first_after=0.01)
    heard: list[str] = []
    with one.register(1, name="k1", deliver=lambda told: heard.append(told.status)):
        while not one._failures:
            await asyncio.sleep(0.01)
        source.listing = [TaskStatus(task_id=1, name="t1", status="done", phase=phase_of("done"))]
        with one.register(2, name="k2", deliver=lambda _: None) as second:
            second.look()  # a wait that begins
            async with asyncio.timeout(60):
                while not heard:
                    await asyncio.sleep(0.01)
    assert heard == ["done"]


async def looked(source: Source, questions: int) -> None:
    async with asyncio.timeout(60):
        while len(source.single) < questions:
            await asyncio.sleep(0.01)


async def test_a_look_asks_for_the_task_alone_and_soon(source: Source) -> None:
    one = StatusBoard(source, KIND, interval=3600, first_after=3600)
    heard: list[str] = []
    source.alone[1] = told(1, "done")
    with (
        one.register(1, name="k1", deliver=lambda status: heard.append(status.status)) as first,
        one.register(2, name="k2", deliver=lambda _: pytest.fail("not known yet")) as second,
    ):
        first.look()
        first.look()
        second.look()
        await looked(source, 2)
        assert source.lists == 0
    assert source.single == [1, 2]
    assert heard == ["done"]


async def test_many_looks_share_one_listing(source: Source) -> None:
    one = StatusBoard(source, KIND, interval=3600, first_after=3600)
    numbers = range(1, LOOKED_AT_ALONE + 2)
    heard: list[int] = []
    source.listing = [told(number) for number in numbers]
    registrations = [
        one.register(number, name=f"k{number}", deliver=lambda status: heard.append(status.task_id))
        for number in numbers
    ]
    for registration in registrations:
        registration.look()
    async with asyncio.timeout(60):
        while len(heard) < len(numbers):
            await asyncio.sleep(0.01)
    assert (source.lists, source.single) == (1, [])
    for registration in registrations:
        registration.close()
    async with asyncio.timeout(60):
        while one.polling:
            await asyncio.sleep(0)


async def test_a_look_that_fails_harms_nobody_and_the_poll_goes_on(source: Source) -> None:
    one = StatusBoard(source, KIND, interval=0.5, first_after=0.5)
    heard: list[str] = []
    source.alone[1] = GridUnreachableError("refused")
    source.listing = [told(1)]
    with one.register(1, name="k1", deliver=lambda status: heard.append(status.status)) as only:
        only.look()
        await looked(source, 1)
        await source.rounds(1)
    assert "running" in heard
    only.look()  # closed: asks nobody
    assert len(source.single) == 1


async def test_records_come_in_batches_one_request_after_the_other(panda: ScriptedPanda) -> None:
    panda.on("task/get_job_ids", envelope(list(range(150))))
    panda.on(
        "job/get_description",
        lambda handler, seen: envelope([{"PandaID": n} for n in seen.json["job_ids"]])(handler, seen),
    )
    sizes = []
    async for batch in client(panda).record_batches(5):
        sizes.append(len(batch))
        assert len(panda.calls("job/get_description")) == len(sizes), "nothing is read ahead of who takes it"
    assert sizes == [100, 50]
