"""Both ways to the grid, and what operators leave of a submission for whoever comes after them."""

from __future__ import annotations

import shlex
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_panda import configuration
from airflow_provider_panda.exceptions import GridRefusedError, GridUnreachableError, TaskNotFoundError
from airflow_provider_panda.grid.answers import KillOutcome
from airflow_provider_panda.grid.idds.answers import TransformStatus
from airflow_provider_panda.grid.idds.runs import DagRun, Submitted
from airflow_provider_panda.grid.task import TaskSpec
from airflow_provider_panda.hooks.panda import PandaConnection, parse
from airflow_provider_panda.operators import submission, way
from airflow_provider_panda.operators.way import Directly, Found, Submission, ThroughIdds, way_of
from airflow_provider_panda.payload.command import Environment
from airflow_provider_panda.payload.package import build_archive
from airflow_provider_panda.triggers.ids import (
    CONNECTION_KEY,
    REQUEST_ID_KEY,
    TASK_ID_KEY,
    TASK_KEY_KEY,
    TRANSFORM_ID_KEY,
)
from tests.unit.operators.scene import Store, TaskInstance

KEY = "afabcdefghijklmnopqr"
SPEC = TaskSpec(key=KEY, name=f"n-{KEY}", n_jobs=1, command="c", archive_name="sources.a.tar.gz")


def connection(service: str) -> PandaConnection:
    extra = {"service": service, "instance_secret": "s", "monitor_url": "http://mon", "result_store": "https://store"}
    return parse("c", host="http://127.0.0.1:1", extra=extra)


class Hook:
    """A hook whose grids note what they are asked for."""

    def __init__(self, *, error: Exception | None = None, outcome: KillOutcome | None = KillOutcome.REGISTERED) -> None:
        self.done: list[tuple[Any, ...]] = []
        self.error, self.outcome = error, outcome
        self.late_id: int | Exception | None = 77

    found: Any = None
    """What PanDA finds by name."""

    def _noted(self, *what: Any) -> None:
        self.done.append(what)
        if self.error is not None:
            raise self.error

    def grid(self) -> Any:
        def kill(task_id: int) -> KillOutcome | None:
            self._noted("kill", task_id)
            return self.outcome

        def submit(spec: TaskSpec) -> int:
            self._noted("submit", spec.key)
            return 5

        def find(name: str) -> Any:
            return self.found

        def sole(name: str, *, processing_type: str | None) -> Any:
            self._noted("sole", name, processing_type)
            return self.found

        return SimpleNamespace(kill=kill, submit=submit, find=find, sole=sole)

    def idds_grid(self) -> Any:
        def kill(request_id: int, transform_id: int) -> KillOutcome | None:
            self._noted("kill through iDDS", request_id, transform_id)
            return self.outcome

        def request_for(run: DagRun, nonce: str) -> int:
            self._noted("request", run, nonce)
            return 3

        def submit(spec: TaskSpec, run: DagRun, request_id: int) -> Submitted:
            self._noted("transform", spec.key, run, request_id)
            return Submitted(request_id=request_id, transform_id=9, task_name=f"{spec.name}_3_9")

        def task_id(request_id: int, transform_id: int) -> int | None:
            self._noted("task id", request_id, transform_id)
            if isinstance(self.late_id, Exception):
                raise self.late_id
            return self.late_id

        return SimpleNamespace(kill=kill, request_for=request_for, submit=submit, task_id=task_id)


@pytest.fixture(autouse=True)
def instance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "instance", lambda secret, conn_id: "abcd")


@pytest.fixture
def context() -> Any:
    return {"ti": TaskInstance(), "dag_run": SimpleNamespace(start_date=STARTED), "task_state_store": Store()}


STARTED = datetime.fromtimestamp(1_000_000.75, UTC)
RUN = DagRun(instance="abcd", dag_id="dag", run_id="manual__1", generation=1_000_000)
THROUGH = Submission(task_name="n_3_9", request_id=3, transform_id=9)


def transform(status: str, task_id: int | None = None) -> TransformStatus:
    return TransformStatus(transform_id=9, name="n", status=status, task_id=task_id)


def one() -> int:
    return 1


def test_the_connection_says_which_way(context: Any) -> None:
    hook: Any = Hook()
    assert isinstance(way_of(hook, connection("panda"), context), Directly)
    assert isinstance(way_of(hook, connection("idds"), context), ThroughIdds)


def test_directly(context: Any) -> None:
    hook: Any = Hook()
    archive = build_archive(one)
    path = way_of(hook, connection("panda"), context)
    words = shlex.split(path.command(archive, KEY, Environment()))
    assert f"http://127.0.0.1:1/cache/{archive.name}" in words
    assert words[words.index("--secret") + 1] == "AIRFLOW_PANDA_ABCD"
    assert path.submit(SPEC) == Submission(task_name=SPEC.name, task_id=5)
    assert hook.done == [("submit", KEY)]


def test_through_idds(context: Any) -> None:
    hook: Any = Hook()
    archive = build_archive(one)
    path = way_of(hook, connection("idds"), context)
    words = shlex.split(path.command(archive, KEY, Environment()))
    assert words == [
        "python3", "panda_runner/runner.py", "--task-key", KEY, "--manifest", archive.manifest_sha256,
        "--result-store", "https://store",
    ]  # fmt: skip
    assert path.submit(SPEC) == Submission(task_name=f"{SPEC.name}_3_9", request_id=3, transform_id=9)
    assert hook.done == [("request", RUN, KEY), ("transform", KEY, RUN, 3)]
    assert context["ti"].xcoms == {REQUEST_ID_KEY: 3, CONNECTION_KEY: "c"}


def test_the_request_is_known_before_anything_is_in_it(context: Any) -> None:
    """Whoever closes the run finds it, also if the submission fails."""
    hook: Any = Hook()

    def fails(*_: Any) -> Any:
        raise GridRefusedError("no")

    grid = hook.idds_grid()
    grid.submit = fails
    hook.idds_grid = lambda: grid
    with pytest.raises(GridRefusedError):
        way_of(hook, connection("idds"), context).submit(SPEC)
    assert context["ti"].xcoms == {REQUEST_ID_KEY: 3, CONNECTION_KEY: "c"}


def test_a_run_without_a_start(context: Any) -> None:
    hook: Any = Hook()
    context["dag_run"].start_date = None
    way_of(hook, connection("idds"), context).submit(SPEC)
    assert hook.done[0][1].generation == 0


@pytest.mark.parametrize(
    ("given", "outcome", "asked", "killed"),
    [
        (Submission(task_name="", task_id=5), KillOutcome.REGISTERED, [("kill", 5)], True),
        (Submission(task_name="", task_id=5, request_id=3, transform_id=9), KillOutcome.ENDED, [("kill", 5)], False),
        (THROUGH, KillOutcome.REGISTERED, [("kill through iDDS", 3, 9)], True),
        (THROUGH, None, [("kill through iDDS", 3, 9)], False),
        (Submission(task_name="", request_id=3), KillOutcome.REGISTERED, [], False),
        (Submission(task_name=""), KillOutcome.REGISTERED, [], False),
    ],
)
def test_kills(given: Submission, outcome: KillOutcome | None, asked: list[Any], killed: bool) -> None:
    hook: Any = Hook(outcome=outcome)
    assert way.kill(hook, given) is killed
    assert hook.done == asked


def test_what_it_is_called() -> None:
    assert str(THROUGH) == "iDDS request 3, transform 9"
    assert str(Submission(task_name="n", task_id=5)) == "PanDA task 5"
    assert str(Submission(task_name="n", request_id=5)) == "iDDS request 5"


def test_all_ids_are_left(context: Any) -> None:
    """That of the request was left before anything was in it."""
    submission.tell_submission(context, connection("idds"), key=KEY, submission=THROUGH)
    assert context["ti"].xcoms == {TASK_KEY_KEY: KEY, TRANSFORM_ID_KEY: 9}
    assert context["task_state_store"] == {}


def test_what_is_known_is_not_submitted_again(context: Any) -> None:
    hook: Any = Hook()
    directly = Submission(task_name="n", task_id=5)
    assert way_of(hook, connection("panda"), context).submit(SPEC, directly) == directly
    assert way_of(hook, connection("idds"), context).submit(SPEC, THROUGH) == THROUGH
    assert hook.done == []
    assert context["ti"].xcoms == {REQUEST_ID_KEY: 3, CONNECTION_KEY: "c"}  # the end of the run closes that one


def test_found_at_panda() -> None:
    hook: Any = Hook()
    assert way.find_directly(hook, "n", "kind") is None
    hook.found = SimpleNamespace(task_id=5, status="running")
    assert way.find_directly(hook, "n", "kind") == Found(
        submission=Submission(task_name="n", task_id=5), status="running"
    )
    assert hook.done == [("sole", "n", "kind")] * 2


@pytest.mark.parametrize(
    ("transform", "panda", "found"),
    [
        (None, None, None),
        (transform("New"), None, Found(submission=THROUGH, status="")),
        (transform("Cancelled"), None, Found(submission=THROUGH, status="failed")),
        (transform("Transforming", 7), "running", Found(submission=replace(THROUGH, task_id=7), status="running")),
        (transform("Finished", 7), "done", Found(submission=replace(THROUGH, task_id=7), status="done")),
        (transform("Submitted", 7), None, Found(submission=replace(THROUGH, task_id=7), status="")),
    ],
)
def test_found_through_idds(
    context: Any, transform: TransformStatus | None, panda: str | None, found: Found | None
) -> None:
    def status(task_id: int) -> Any:
        assert task_id == 7
        if panda is None:
            raise TaskNotFoundError("not yet")
        return SimpleNamespace(status=panda)

    def find(run: DagRun, name: str) -> Any:
        assert (run, name) == (RUN, "n")
        return None if transform is None else (3, transform)

    hook: Any = SimpleNamespace(
        idds_grid=lambda: SimpleNamespace(find=find, panda=SimpleNamespace(status=status)),
        get_conn=lambda: connection("idds"),
    )
    assert way.find_through_idds(hook, context, "n") == found


def test_a_kill_that_fails_hides_nothing(caplog: pytest.LogCaptureFixture) -> None:
    hook: Any = Hook(error=GridUnreachableError("away"))
    submission.end_quietly(hook, THROUGH, key=KEY)
    assert "could not be killed: away. Kill it by hand: pbook, kill(n_3_9)" in caplog.text


def test_a_trigger_that_ended_without_an_event_leaves_nothing_running(context: Any) -> None:
    hook: Any = Hook()
    submission.end_unwatched(context, hook)
    assert hook.done == []
    submission.tell_submission(context, connection("idds"), key=KEY, submission=THROUGH)
    context["ti"].xcom_push(REQUEST_ID_KEY, 3)
    submission.end_unwatched(context, hook)
    context["ti"].xcom_push(TASK_ID_KEY, 77)  # as the trigger leaves it late
    submission.end_unwatched(context, hook)
    assert hook.done == [("kill through iDDS", 3, 9), ("kill", 77)]


def test_an_id_that_nobody_told_before_the_values_came(context: Any) -> None:
    hook: Any = Hook()
    submission.tell_late_id(context, hook, connection("idds"), THROUGH)
    assert context["ti"].xcoms[TASK_ID_KEY] == 77
    assert any("http://mon" in str(value) for value in context["ti"].xcoms.values())


def test_an_id_that_idds_has_not_noted_is_asked_of_panda(context: Any) -> None:
    hook: Any = Hook()
    hook.late_id, hook.found = None, SimpleNamespace(task_id=78)
    submission.tell_late_id(context, hook, connection("idds"), THROUGH)
    assert context["ti"].xcoms[TASK_ID_KEY] == 78


@pytest.mark.parametrize("late", [None, GridUnreachableError("away")])
def test_an_id_that_cannot_be_had_fails_nothing(context: Any, late: Any) -> None:
    hook: Any = Hook()
    hook.late_id = late
    submission.tell_late_id(context, hook, connection("idds"), THROUGH)
    assert context["ti"].xcoms == {}


def test_known_ids_are_not_asked_for(context: Any) -> None:
    hook: Any = Hook()
    submission.tell_late_id(context, hook, connection("panda"), Submission(task_name="n", task_id=5))
    assert hook.done == []
