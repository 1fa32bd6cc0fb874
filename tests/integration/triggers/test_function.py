"""The trigger against a real broker and the embedded grid: every way home, and every way to end."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from airflow_provider_panda import configuration
from airflow_provider_panda.exceptions import GridTaskFailedError, MissingResultsError
from airflow_provider_panda.grid.names import processing_type, secret_name, task_name
from airflow_provider_panda.grid.outcome import CallPolicy
from airflow_provider_panda.grid.panda import PandaGrid
from airflow_provider_panda.grid.task import Resources, TaskSpec, instance_id, task_key
from airflow_provider_panda.hooks.panda import PandaHook
from airflow_provider_panda.hooks.stomp import StompHook
from airflow_provider_panda.operators.homecoming import Reader, bring_home, check_min_success, error_of
from airflow_provider_panda.payload import envelope
from airflow_provider_panda.payload.command import Environment, job_command
from airflow_provider_panda.payload.delivery import user_secret
from airflow_provider_panda.payload.package import Delivery, build_archive
from airflow_provider_panda.payload.result import JobFailure
from airflow_provider_panda.triggers import wait
from airflow_provider_panda.triggers.event import FunctionEvent, Outcome
from airflow_provider_panda.triggers.function import PandaFunctionTrigger
from demo.grid import Grid
from tests.stack.activemq import ActiveMQ

SECRET = "secret of the trigger tests"
INSTANCE = instance_id(SECRET)


@dataclass(frozen=True)
class Bench:
    """A grid, a broker, and connections to them in the environment."""

    grid: Grid
    broker: ActiveMQ
    panda: PandaGrid

    def store_secret(self, *, secret: str = SECRET, broker_conn_id: str | None = "trigger_broker") -> None:
        """Give the jobs what they need to report back, or something else."""
        endpoint = StompHook(broker_conn_id).get_conn() if broker_conn_id else None
        self.panda.set_secret(secret_name(INSTANCE), user_secret(secret, endpoint))

    def submit(
        self, function: Callable[..., Any], *, jobs: int = 1, conn_id: str = "trigger_panda", **policy: Any
    ) -> Any:
        """Submit a function as one task and return the trigger that waits for it."""
        per_job = None if jobs == 1 else [{"n": number} for number in range(jobs)]
        archive = build_archive(function, per_job=per_job)
        key = task_key(INSTANCE, str(uuid4()))
        self.panda.upload(archive.name, archive.content)
        command = job_command(
            archive=archive,
            cache_url=self.grid.url,
            task_key=key,
            environment=Environment(python=sys.executable),
            secret_name=secret_name(INSTANCE),
            result_store=None,
        )
        spec = TaskSpec(
            key=key,
            name=task_name("test", function.__name__, "run", key),
            n_jobs=jobs,
            command=command,
            archive_name=archive.name,
            resources=Resources(max_attempt=policy.get("max_attempt", 2)),
            processing_type=processing_type(INSTANCE),
        )
        deadline, not_before = policy.pop("deadline", None), policy.pop("not_before", None)
        return PandaFunctionTrigger(
            panda_conn_id=conn_id,
            task_key=key,
            task_id=self.panda.submit(spec),
            task_name=spec.name,
            processing_type=spec.processing_type,
            policy=CallPolicy(n_jobs=jobs, **{"max_attempt": 2, **policy}),
            deadline=None if deadline is None else time.time() + deadline,
            not_before=not_before,
        )

    def values(self, event: FunctionEvent) -> dict[int, Any]:
        """Return the values of an event as the operator reads them."""
        reader = Reader(
            task_key=event.task_key,
            signing_key=envelope.derive_key(SECRET, event.task_key),
            allow_pickle=False,
            result_store=None,
        )
        home = enumerate(bring_home(event, reader, self.panda))
        return {job: value for job, value in home if not isinstance(value, JobFailure)}


async def fired(trigger: PandaFunctionTrigger) -> FunctionEvent:
    """Run a trigger as a triggerer does: serialised and made again first."""
    path, kwargs = trigger.serialize()
    assert path == "airflow_provider_panda.triggers.function.PandaFunctionTrigger"
    again = PandaFunctionTrigger(**json.loads(json.dumps(kwargs)))
    event = await anext(again.run())
    return FunctionEvent.from_json(json.loads(json.dumps(event.payload)))


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    grid = Grid(tmp_path_factory.mktemp("grid"), ["--slots", "3", "--register-delay", "1"])
    yield grid
    grid.stop()


@pytest.fixture
def bench(grid: Grid, activemq: ActiveMQ, monkeypatch: pytest.MonkeyPatch) -> Bench:
    stomp = activemq.connection()
    panda = {
        "conn_type": "panda",
        "host": grid.url,
        "password": grid.token(),
        "extra": {"auth": "token", "vo": "wlcg", "broker_conn_id": "trigger_broker", "instance_secret": SECRET},
    }
    nobody = {**panda, "extra": {**panda["extra"], "broker_conn_id": "dead_broker"}}  # type: ignore[dict-item]
    monkeypatch.setenv("AIRFLOW_CONN_TRIGGER_BROKER", json.dumps(stomp))
    monkeypatch.setenv("AIRFLOW_CONN_DEAD_BROKER", json.dumps({**stomp, "host": "127.0.0.1:1"}))
    monkeypatch.setenv("AIRFLOW_CONN_TRIGGER_PANDA", json.dumps(panda))
    monkeypatch.setenv("AIRFLOW_CONN_PANDA_DEAD_BROKER", json.dumps(nobody))
    monkeypatch.setattr(configuration, "poll_interval", lambda: 1.0)
    made = Bench(grid=grid, broker=activemq, panda=PandaHook("trigger_panda").grid())
    made.store_secret()
    return made


def answer() -> tuple[int, str]:
    return 42, "forty-two"


def square(n: int) -> int:
    return n * n


def fails() -> None:
    raise KeyError("nothing here")


def odd_fails(n: int) -> int:
    if n % 2:
        raise ValueError(f"{n} is odd")
    return n


def sleeps() -> None:
    import time

    time.sleep(120)


def is_killed() -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def large(n: int) -> str:
    return str(n) * 50_000


async def test_value_by_message(bench: Bench) -> None:
    event = await fired(bench.submit(answer))
    assert event.outcome is Outcome.COMPLETE
    assert bench.values(event) == {0: (42, "forty-two")}


async def test_an_early_result_is_kept_back(bench: Bench) -> None:
    not_before = time.time() + 6
    event = await fired(bench.submit(answer, not_before=not_before))
    assert event.outcome is Outcome.COMPLETE
    assert time.time() >= not_before


async def test_many_jobs_come_home(bench: Bench) -> None:
    event = await fired(bench.submit(square, jobs=7))
    assert bench.values(event) == {n: n * n for n in range(7)}


async def test_exception_comes_home_with_its_traceback(bench: Bench) -> None:
    event = await fired(bench.submit(fails))
    assert event.outcome is Outcome.FAILED
    (failure,) = event.failures
    assert (failure.type, failure.job) == ("KeyError", 0)
    assert 'raise KeyError("nothing here")' in failure.traceback
    assert failure.host
    assert failure.panda_id


async def test_collect_brings_values_and_failures(bench: Bench) -> None:
    event = await fired(bench.submit(odd_fails, jobs=4, on_job_error="collect"))
    assert event.outcome is Outcome.COMPLETE
    assert bench.values(event) == {0: 0, 2: 2}
    assert [failure.job for failure in event.failures] == [1, 3]


async def test_exception_is_tried_again_where_asked(bench: Bench, tmp_path: Path) -> None:
    mark = str(tmp_path / "mark")

    def once(path: str = mark) -> str:
        from pathlib import Path

        if not Path(path).exists():
            Path(path).touch()
            raise RuntimeError("first attempt")
        return "second attempt"

    event = await fired(bench.submit(once, retry_on_exception=True))
    assert event.outcome is Outcome.COMPLETE
    assert bench.values(event) == {0: "second attempt"}


async def test_broker_down_at_start_the_value_comes_from_pandas_record(bench: Bench) -> None:
    event = await fired(bench.submit(answer, conn_id="panda_dead_broker"))
    assert event.outcome is Outcome.COMPLETE
    assert bench.values(event) == {0: (42, "forty-two")}


async def test_message_that_nobody_sent_the_value_comes_from_pandas_record(bench: Bench) -> None:
    bench.store_secret(broker_conn_id=None)
    event = await fired(bench.submit(square, jobs=3))
    assert bench.values(event) == {0: 0, 1: 1, 2: 4}


async def test_lost_exception_is_told_by_exit_code(bench: Bench) -> None:
    bench.store_secret(broker_conn_id=None)
    event = await fired(bench.submit(fails, max_attempt=1))
    assert event.outcome is Outcome.FAILED
    assert event.failures[0].type == "KeyError"
    assert "nothing here" in event.failures[0].message


async def test_wrong_signature_is_never_a_value(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait, "LATE_REPORTS", (0.2, 0.2))
    bench.store_secret(secret="another secret")
    event = await fired(bench.submit(answer))
    assert event.outcome is Outcome.ENDED
    assert event.status == "done"
    assert not event.results
    assert event.missing == (0,)
    assert isinstance(error_of(event), MissingResultsError)


async def test_missing_results_are_failures_where_failures_are_collected(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wait, "LATE_REPORTS", (0.2, 0.2))
    bench.store_secret(secret="another secret")
    event = await fired(bench.submit(square, jobs=2, on_job_error="collect"))
    assert event.outcome is Outcome.COMPLETE
    assert [(failure.job, failure.type) for failure in event.failures] == [(0, "JobMissing"), (1, "JobMissing")]
    with pytest.raises(GridTaskFailedError, match="only 0 of 2 jobs succeeded"):
        check_min_success(event, 0.5)


async def test_job_that_dies_ends_with_what_panda_knows(bench: Bench) -> None:
    event = await fired(bench.submit(is_killed))
    assert event.outcome is Outcome.FAILED
    assert event.failures[0].type == "JobLost"


async def test_deadline(bench: Bench) -> None:
    trigger = bench.submit(sleeps, deadline=4)
    event = await fired(trigger)
    assert event.outcome is Outcome.DEADLINE
    assert event.task_id == trigger.awaited.task_id
    bench.panda.kill(trigger.awaited.task_id)


async def test_killed_task_ends_the_wait(bench: Bench) -> None:
    trigger = bench.submit(sleeps)
    bench.panda.kill(trigger.awaited.task_id)
    event = await fired(trigger)
    assert event.outcome is Outcome.ENDED
    assert event.status == "aborted"


async def test_wait_for_task_waits_until_panda_ended_it(bench: Bench) -> None:
    event = await fired(bench.submit(answer, wait_for="task"))
    assert event.outcome is Outcome.COMPLETE
    assert event.ended
    assert event.status == "done"


async def test_results_too_large_for_the_event_are_fetched(bench: Bench) -> None:
    event = await fired(bench.submit(large, jobs=3))
    assert event.results is None
    assert bench.values(event) == {n: str(n) * 50_000 for n in range(3)}


async def test_key_in_the_archive(bench: Bench) -> None:
    """``signing = archive``: the archive carries the key of its task, and no user secret is needed."""
    key = task_key(INSTANCE, str(uuid4()))
    from airflow_provider_panda.payload.delivery import broker_settings

    delivery = Delivery(
        signing_key=envelope.derive_key(SECRET, key), broker=broker_settings(StompHook("trigger_broker").get_conn())
    )
    archive = build_archive(answer, delivery=delivery)
    bench.panda.upload(archive.name, archive.content)
    command = job_command(
        archive=archive, cache_url=bench.grid.url, task_key=key, environment=Environment(python=sys.executable),
        secret_name=None, result_store=None,
    )  # fmt: skip
    name = task_name("test", "archive", "run", key)
    spec = TaskSpec(
        key=key, name=name, n_jobs=1, command=command, archive_name=archive.name, use_secrets=False,
        processing_type=processing_type(INSTANCE),
    )  # fmt: skip
    trigger = PandaFunctionTrigger(
        panda_conn_id="trigger_panda", task_key=key, task_id=bench.panda.submit(spec), task_name=name,
        processing_type=spec.processing_type, policy=CallPolicy(n_jobs=1),
    )  # fmt: skip
    assert bench.values(await fired(trigger)) == {0: (42, "forty-two")}


async def test_archive_that_was_tampered_with_does_not_run(bench: Bench) -> None:
    archive = build_archive(answer)
    other = build_archive(square, per_job=[{"n": 1}])
    key = task_key(INSTANCE, str(uuid4()))
    # The file of that name in the cache is another one.
    bench.panda.upload(archive.name.replace("sources.", "sources.x"), archive.content)
    name_in_cache = archive.name.replace("sources.", "sources.x")
    command = job_command(
        archive=other, cache_url=bench.grid.url, task_key=key, environment=Environment(python=sys.executable),
        secret_name=secret_name(INSTANCE), result_store=None,
    ).replace(other.name, name_in_cache)  # fmt: skip
    name = task_name("test", "tampered", "run", key)
    spec = TaskSpec(
        key=key, name=name, n_jobs=1, command=command, archive_name=name_in_cache,
        resources=Resources(max_attempt=1), processing_type=processing_type(INSTANCE),
    )  # fmt: skip
    trigger = PandaFunctionTrigger(
        panda_conn_id="trigger_panda", task_key=key, task_id=bench.panda.submit(spec), task_name=name,
        processing_type=spec.processing_type, policy=CallPolicy(n_jobs=1, max_attempt=1),
    )  # fmt: skip
    event = await fired(trigger)
    assert event.outcome is Outcome.FAILED
    assert other.sha256[:12] in event.failures[0].message or "hash" in event.failures[0].message
