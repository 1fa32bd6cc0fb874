"""Faults on the way to the real iDDS: one transform, one PanDA task, and the value, whatever was lost meanwhile."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from airflow_provider_panda import configuration
from airflow_provider_panda.grid.idds.client import IddsClient
from airflow_provider_panda.grid.idds.runs import DagRun, IddsGrid
from airflow_provider_panda.grid.retry import RetryPolicy
from airflow_provider_panda.grid.task import TaskSpec, instance_id, task_key
from airflow_provider_panda.hooks.panda import PandaHook
from tests.integration.through_idds.calls import DIRECT, RELAYED, SECRET, Call, close_requests, connections, use
from tests.stack.faulty_proxy import Fault, FaultyProxy, Kind, faulty_proxy
from tests.stack.stack import Stack

FAULTY = "idds_faulty"
QUICK = RetryPolicy(attempts=10, first=0.05, longest=0.3)


@pytest.fixture(autouse=True)
def connected(idds_stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    use(idds_stack.access, monkeypatch)
    monkeypatch.setattr(configuration, "poll_interval", lambda: 1.0)
    yield idds_stack
    close_requests()


@pytest.fixture
def proxy(connected: Stack) -> Iterator[FaultyProxy]:
    with faulty_proxy(connected.access.idds_url) as running:
        yield running


def add(a: int, b: int) -> int:
    return a + b


PASSING: dict[str, tuple[Kind, dict[str, Any]]] = {
    "reset before it was sent on": (Kind.DROP, {"count": 2}),
    "lost reply": (Kind.LOSE, {"count": 2}),
    "reset in mid-answer": (Kind.RESET, {"size": 3, "count": 2}),
    "acted on, answered past the deadline": (Kind.LATE, {"delay": 4.0, "count": 1}),
    "502 of Apache": (Kind.STATUS, {"status": 502, "page": "apache", "count": 2}),
    "503 with Retry-After": (Kind.STATUS, {"status": 503, "retry_after": "0", "count": 2}),
    "an HTML page with 200": (Kind.ANSWER, {"count": 2}),
    "JSON cut short of its Content-Length": (Kind.CUT, {"count": 2}),
    "garbage": (Kind.GARBAGE, {"count": 2}),
    "a redirect": (Kind.REDIRECT, {"text": "http://127.0.0.1:1/", "count": 2}),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_fails_nothing_and_doubles_nothing(name: str, proxy: FaultyProxy) -> None:
    """Each kind of call of a worker meets the fault: look-ups, the new request, the new transform, the closing."""
    kind, details = PASSING[name]
    endpoint = PandaHook(DIRECT).get_conn().idds
    faulty = replace(endpoint, host=proxy.url, panda=replace(endpoint.panda, timeout=2.0))
    grid = IddsGrid(IddsClient(faulty), PandaHook(DIRECT).grid(), secret=SECRET, policy=QUICK)
    truth = IddsClient(endpoint)
    run = DagRun(instance=instance_id(SECRET), dag_id="faults", run_id=f"manual__{uuid4()}")
    key = task_key(run.instance, str(uuid4()))
    spec = TaskSpec(
        key=key, name=f"airflow-faults-{key}", n_jobs=1, command="true", archive_name="sources.none.tar.gz",
        processing_type="airflow-faults",
    )  # fmt: skip
    for method, path in (("POST", "/request"), ("POST", "/transform"), ("GET", "/request/")):
        proxy.add(Fault(kind, method=method, path=path, **details))

    request_id = grid.request_for(run, key)
    submitted = grid.submit(spec, run, request_id)

    assert all(fault["met"] for fault in proxy.faults())
    status = truth.request(request_id)
    assert status is not None
    assert [transform.transform_id for transform in status.transforms] == [submitted.transform_id]
    used = [i for i in IddsGrid(truth, grid.panda, secret=SECRET).requests_of(run).values() if _transforms(truth, i)]
    assert used == [request_id]
    assert grid.submit(spec, run, request_id) == submitted, "a worker that starts over finds it"
    proxy.clear()
    grid.kill(request_id, submitted.transform_id)


def _transforms(client: IddsClient, request_id: int) -> Any:
    status = client.request(request_id)
    return status and status.transforms


async def test_a_value_comes_home_while_idds_comes_and_goes(
    connected: Stack, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Away when the worker submits, and again while the triggerer waits."""
    fields = connections(connected.access)[DIRECT]
    monkeypatch.setenv(
        f"AIRFLOW_CONN_{FAULTY.upper()}", json.dumps({**fields, "extra": {**fields["extra"], "idds_host": proxy.url}})
    )
    call = Call(add, conn_id=FAULTY, op_args=[2], op_kwargs={"b": 40})
    proxy.add(Fault(Kind.REFUSE, seconds=2.0))
    timer = threading.Timer(6.0, lambda: proxy.add(Fault(Kind.STATUS, status=503, seconds=3.0)))
    timer.start()
    assert await call.value() == 42
    timer.cancel()
    call.conn_id = DIRECT  # its request is closed when the proxy is gone
    assert len((await asyncio.to_thread(call.request)).transforms) == 1


async def test_a_relay_whose_idds_is_restarted(connected: Stack) -> None:
    """PanDA's relay answers, and says with HTTP 200 that iDDS does not."""
    call = Call(add, conn_id=RELAYED, op_args=[1], op_kwargs={"b": 1})
    connected.idds.stop_rest()
    back = threading.Timer(2.0, connected.idds.start_rest)
    back.start()
    try:
        assert await call.value() == 2
    finally:
        await asyncio.to_thread(back.join)
    assert len((await asyncio.to_thread(call.request)).transforms) == 1
