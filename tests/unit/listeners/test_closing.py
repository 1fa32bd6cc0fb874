"""The end of a DAG run: handed over at once, looked at until its requests are closed, and never anybody's problem."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_panda import configuration
from airflow_provider_panda.exceptions import ConfigurationError, GridUnreachableError
from airflow_provider_panda.grid.idds.runs import DagRun, RunClosing
from airflow_provider_panda.hooks.panda import PandaHook
from airflow_provider_panda.listeners import closing, component, dag_run
from airflow_provider_panda.listeners.closing import Closer
from airflow_provider_panda.plugin import PandaPlugin

PATIENCE = 60.0


class Idds:
    """What the closer is given: connections of runs, and a way to close."""

    def __init__(self, *outcomes: bool | Exception, conn_ids: tuple[str, ...] = ("c",)) -> None:
        self.outcomes = list(outcomes)
        self.conn_ids = conn_ids
        self.looked_up: list[tuple[str, str]] = []
        self.closed: list[tuple[str, str, str, int]] = []
        self.go = threading.Event()
        self.go.set()
        self.threads: set[str] = set()

    def connections_of(self, dag_id: str, run_id: str) -> list[str]:
        self.looked_up.append((dag_id, run_id))
        return list(self.conn_ids)

    def close(self, conn_id: str, dag_id: str, run_id: str, generation: int) -> bool:
        assert self.go.wait(PATIENCE)
        self.threads.add(threading.current_thread().name)
        self.closed.append((conn_id, dag_id, run_id, generation))
        outcome = self.outcomes.pop(0) if self.outcomes else True
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@pytest.fixture
def made() -> Iterator[list[Idds]]:
    idds: list[Idds] = []
    yield idds
    for each in idds:
        each.go.set()


def closer(idds: Idds, made: list[Idds]) -> Closer:
    made.append(idds)
    return Closer(idds.connections_of, idds.close, first_pause=0.01)


def test_a_run_is_closed_in_the_background_with_its_generation(made: list[Idds]) -> None:
    idds = Idds(conn_ids=("a", "b"))
    subject = closer(idds, made)
    assert subject.drain(0)
    subject.hand_over("dag", "run", 3)
    assert subject.drain(PATIENCE)
    assert idds.closed == [("a", "dag", "run", 3), ("b", "dag", "run", 3)]
    assert idds.threads == {"panda-request-closer"}


def test_handing_over_does_not_wait(made: list[Idds]) -> None:
    idds = Idds()
    idds.go.clear()
    subject = closer(idds, made)
    for number in range(10):
        subject.hand_over("dag", f"run{number}", 0)  # comes back, though nothing can be closed
    assert idds.closed == []
    assert not subject.drain(0.05)
    idds.go.set()
    assert subject.drain(PATIENCE)
    assert [run for _, _, run, _ in idds.closed] == [f"run{number}" for number in range(10)]


def test_a_run_without_connections_of_ours_is_done_with(made: list[Idds]) -> None:
    idds = Idds(conn_ids=())
    subject = closer(idds, made)
    subject.hand_over("dag", "run", 0)
    assert subject.drain(PATIENCE)
    assert (idds.looked_up, idds.closed) == ([("dag", "run")], [])


def test_it_looks_again_until_the_works_have_ended_and_idds_answers(made: list[Idds]) -> None:
    idds = Idds(False, GridUnreachableError("away"), False, True)
    subject = closer(idds, made)
    subject.hand_over("dag", "run", 0)
    assert subject.drain(PATIENCE)
    assert len(idds.closed) == 4
    assert len(idds.looked_up) == 1


def test_one_run_that_cannot_be_closed_yet_does_not_hold_up_others(made: list[Idds]) -> None:
    idds = Idds()
    stuck = threading.Event()

    def close(conn_id: str, dag_id: str, run_id: str, generation: int) -> bool:
        idds.closed.append((conn_id, dag_id, run_id, generation))
        return run_id != "slow" or stuck.is_set()

    subject = Closer(idds.connections_of, close, first_pause=0.01)
    subject.hand_over("dag", "slow", 0)
    subject.hand_over("dag", "quick", 0)
    until = time.monotonic() + PATIENCE
    while ("c", "dag", "quick", 0) not in idds.closed:
        assert time.monotonic() < until
        time.sleep(0.01)
    stuck.set()
    assert subject.drain(PATIENCE)


def test_a_bug_ends_one_run_and_not_the_thread(made: list[Idds], caplog: pytest.LogCaptureFixture) -> None:
    idds = Idds(RuntimeError("unforeseen"))
    subject = closer(idds, made)
    subject.hand_over("dag", "first", 0)
    subject.hand_over("dag", "second", 0)
    assert subject.drain(PATIENCE)
    assert [run for _, _, run, _ in idds.closed] == ["first", "second"]
    assert "the iDDS request of dag, first could not be looked for" in caplog.text


def test_it_is_given_up_in_the_end(made: list[Idds], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "PATIENCE", 0.2)
    idds = Idds(*[False] * 10_000)
    subject = closer(idds, made)
    subject.hand_over("dag", "run", 0)
    assert subject.drain(PATIENCE)
    assert 1 < len(idds.closed) < 100  # the pauses grow


def test_memory_is_bounded(made: list[Idds], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(closing, "CAPACITY", 5)
    idds = Idds()
    idds.go.clear()
    subject = closer(idds, made)
    for number in range(20):
        subject.hand_over("dag", f"run{number}", 0)
    assert "too many runs ended at once" in caplog.text
    assert len(subject._ended) == 5
    idds.go.set()
    assert subject.drain(PATIENCE)
    assert 5 <= len(idds.closed) <= 6  # one may have been taken up before


def test_it_waits_at_the_end_of_a_process(made: list[Idds], monkeypatch: pytest.MonkeyPatch) -> None:
    registered: list[Any] = []
    monkeypatch.setattr(closing.atexit, "register", registered.append)
    idds = Idds()
    subject = closer(idds, made)
    for number in range(3):
        subject.hand_over("dag", f"run{number}", 0)
    (at_exit,) = registered
    assert at_exit()
    assert len(idds.closed) == 3


def test_a_process_has_one_and_a_fork_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "_closer", None)
    first = closing.closer()
    assert closing.closer() is first
    closing._after_fork()
    assert closing.closer() is not first


class Handed:
    def __init__(self, error: Exception | None = None) -> None:
        self.runs: list[tuple[str, str, int]] = []
        self.error = error

    def hand_over(self, dag_id: str, run_id: str, generation: int) -> None:
        if self.error is not None:
            raise self.error
        self.runs.append((dag_id, run_id, generation))


@pytest.mark.parametrize("hook", [dag_run.on_dag_run_success, dag_run.on_dag_run_failed])
def test_the_listener_hands_over_whatever_the_outcome(hook: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    handed = Handed()
    monkeypatch.setattr(closing, "closer", lambda: handed)
    hook(dag_run=SimpleNamespace(dag_id="dag", run_id="run", start_date=datetime.fromtimestamp(2.5, UTC)), msg="over")
    assert handed.runs == [("dag", "run", 2)]


@pytest.mark.parametrize("hook", [dag_run.on_dag_run_success, dag_run.on_dag_run_failed])
def test_the_listener_never_raises(
    hook: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(closing, "closer", lambda: Handed(RuntimeError("no thread can be started")))
    hook(dag_run=SimpleNamespace(dag_id="dag", run_id="run", start_date=datetime.fromtimestamp(2.5, UTC)), msg="over")
    assert "the iDDS request of dag, run" in caplog.text


def test_airflow_finds_the_listener() -> None:
    from airflow.listeners.listener import get_listener_manager

    assert PandaPlugin.listeners == [dag_run, component]
    manager = get_listener_manager()
    manager.add_listener(dag_run)
    try:
        assert manager.pm.is_registered(dag_run)
        callers = {caller.name for caller in manager.pm.get_hookcallers(dag_run) or ()}
        assert callers == {"on_dag_run_success", "on_dag_run_failed"}
    finally:
        manager.pm.unregister(dag_run)


@pytest.mark.parametrize(
    ("found", "done"),
    [
        (RunClosing(), True),
        (RunClosing(closed=(3,)), False),  # asked to, and not yet seen closed: iDDS loses commands
        (RunClosing(waiting=(4,)), False),
        (RunClosing(closed=(3,), waiting=(4,)), False),
    ],
)
def test_closing_goes_by_the_connection(found: RunClosing, done: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, DagRun]] = []

    class Grid:
        def __init__(self, conn_id: str) -> None:
            self.conn_id = conn_id

        def close_run(self, run: DagRun) -> RunClosing:
            asked.append((self.conn_id, run))
            return found

    monkeypatch.setattr(PandaHook, "get_conn", lambda self: SimpleNamespace(instance_secret="s"))
    monkeypatch.setattr(PandaHook, "idds_grid", lambda self: Grid(self.panda_conn_id))
    monkeypatch.setattr(configuration, "instance", lambda secret, conn_id: f"{secret}-{conn_id}")
    assert closing.close("c", "dag", "run", 1) is done
    assert asked == [("c", DagRun(instance="s-c", dag_id="dag", run_id="run", generation=1))]


def test_a_wrong_connection_is_tried_again(made: list[Idds]) -> None:
    """It may be repaired, as a token that has expired is."""
    idds = Idds(ConfigurationError("connection c", "it is gone", "Make it"), True)
    subject = closer(idds, made)
    subject.hand_over("dag", "run", 0)
    assert subject.drain(PATIENCE)
    assert len(idds.closed) == 2
