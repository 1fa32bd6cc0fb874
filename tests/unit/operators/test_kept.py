"""``retry = "failed_jobs"`` through the operator: what each try sends, what it returns, what it leaves for the next."""

from __future__ import annotations

import io
import json
import logging
import tarfile
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, TaskDeferred

from airflow_provider_panda.exceptions import (
    DeadlineExceededError,
    GridTaskFailedError,
    GridUnreachableError,
    JobRaisedError,
    MissingResultsError,
    TaskNotFoundError,
)
from airflow_provider_panda.grid.answers import KillOutcome
from airflow_provider_panda.grid.outcome import Tally
from airflow_provider_panda.grid.task import JobRecord, TaskSpec
from airflow_provider_panda.hooks.panda import PandaHook
from airflow_provider_panda.operators import kept, missing
from airflow_provider_panda.operators.function import PandaFunctionOperator
from airflow_provider_panda.operators.kept import NOTE_KEY
from airflow_provider_panda.payload import envelope
from airflow_provider_panda.payload.result import JobFailure, read_body
from airflow_provider_panda.payload.runner import EXIT_RAISED
from airflow_provider_panda.triggers.event import FunctionEvent, Outcome, filled
from tests.unit.operators.scene import SECRET, Store, TaskInstance, panda_connection
from tests.unit.triggers.scripted import report


def work(n, factor=2):
    return n * factor


class Task:
    """A task that PanDA was given: its jobs as the archive has them, and what PanDA's record has of them."""

    def __init__(self, task_id: int, spec: TaskSpec, archive: bytes) -> None:
        self.task_id, self.spec = task_id, spec
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            member = tar.extractfile("jobs.jsonl")
            assert member is not None
            self.given = [json.loads(line)["n"] for line in member]
        self.records: list[JobRecord] = []
        self.status = "running"

    def run(
        self, fails: Callable[[int], bool], *, payload: Callable[[int], Any] = lambda n: 2 * n, **policy: Any
    ) -> None:
        """Run all jobs: those fail whose argument ``fails`` is true of."""
        self.records = []
        for job, n in enumerate(self.given):
            if fails(n):
                said = f"airflow-panda {self.spec.key} job {job} attempt 1: ValueError: {n}"
                self._record(job, status="failed", exit_code=EXIT_RAISED, diagnostics=said)
            else:
                self._record(job, status="finished", report=report(job, payload(n), key=self.spec.key))

    def _record(self, job: int, **fields: Any) -> None:
        self.records.append(JobRecord(panda_id=1000 * self.task_id + job, job=job, attempt=1, **fields))

    def event(self, deferred: TaskDeferred, outcome: Outcome = Outcome.COMPLETE) -> dict[str, Any]:
        """Return the event of the wait for this task, as it comes out of Airflow's database."""
        awaited = deferred.trigger.awaited  # type: ignore[attr-defined]
        tally = Tally(awaited.policy)
        key = envelope.derive_key(SECRET, self.spec.key)
        for record in self.records:
            if record.report is not None:
                tally.add(read_body(record.report, key=key, task_key=self.spec.key))
            else:
                tally.add_record(record)
        bare = FunctionEvent(
            outcome=outcome, task_key=awaited.task_key, task_id=self.task_id, n_jobs=awaited.policy.n_jobs,
            ended=False, status="running", carried=awaited.carried,
        )  # fmt: skip
        event: dict[str, Any] = json.loads(json.dumps(filled(bare, tally).to_json()))
        return event


class Grid:
    """PanDA: tasks by id, and a cache."""

    def __init__(self) -> None:
        self.cache: dict[str, bytes] = {}
        self.tasks: dict[int, Task] = {}
        self.killed: list[int] = []
        self.away = False
        self.read: list[int] = []

    def upload(self, name: str, content: bytes) -> None:
        self.cache[name] = content

    def submit(self, spec: TaskSpec) -> int:
        known = next((task for task in self.tasks.values() if task.spec.name == spec.name), None)
        if known is not None:
            return known.task_id
        task_id = 7 + len(self.tasks)
        self.tasks[task_id] = Task(task_id, spec, self.cache[spec.archive_name])
        return task_id

    def record_batches(self, task_id: int) -> Iterator[list[JobRecord]]:
        if self.away:
            raise GridUnreachableError("away")
        if task_id not in self.tasks:
            raise TaskNotFoundError("gone")
        self.read.append(task_id)
        records = self.tasks[task_id].records
        yield from (records[start : start + 100] for start in range(0, len(records), 100))

    def kill(self, task_id: int) -> KillOutcome:
        self.killed.append(task_id)
        return KillOutcome.REGISTERED

    def sole(self, name: str, *, processing_type: str | None = None) -> Any:
        return self.find(name)

    def find(self, name: str) -> Any:
        found = [each for each in self.tasks.values() if each.spec.name == name]
        return SimpleNamespace(task_id=found[0].task_id, status=found[0].status) if found else None


class Instance:
    """A task instance over its tries."""

    def __init__(self, grid: Grid, **arguments: Any) -> None:
        self.grid, self.store = grid, Store()
        self.arguments: dict[str, Any] = {"retry": "failed_jobs", "map_over": "n", **arguments}
        self.kwargs: dict[str, Any] = {"n": list(range(6))}
        self.function = work
        self.ti = TaskInstance()

    def operator(self) -> PandaFunctionOperator:
        return PandaFunctionOperator(
            task_id="t", python_callable=self.function, op_kwargs=self.kwargs, **self.arguments
        )

    def executed(self, *, again: bool = False) -> Any:
        """Begin a try (or the same one once more); return its task with the deferral, or its value."""
        if not again:
            self.ti = TaskInstance()
        try:
            return self.operator().execute({"ti": self.ti, "task_state_store": self.store})
        except TaskDeferred as deferred:
            return self.grid.tasks[max(self.grid.tasks)], deferred

    def completed(self, event: dict[str, Any]) -> Any:
        return self.operator().execute_complete({"ti": self.ti, "task_state_store": self.store}, event)


@pytest.fixture
def grid(monkeypatch: pytest.MonkeyPatch) -> Grid:
    monkeypatch.setattr("tests.unit.triggers.scripted.SECRET", SECRET)  # signs reports
    monkeypatch.setenv("AIRFLOW_CONN_PANDA_DEFAULT", panda_connection("http://127.0.0.1:1"))
    made = Grid()
    monkeypatch.setattr(PandaHook, "grid", lambda self: made)
    return made


@pytest.fixture
def instance(grid: Grid) -> Instance:
    return Instance(grid)


def odd(n: int) -> bool:
    return n % 2 == 1


def never(n: int) -> bool:
    return False


def test_only_what_failed_is_sent_again_and_all_values_are_returned_in_their_order(
    instance: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    first, deferred = instance.executed()
    assert first.given == [0, 1, 2, 3, 4, 5]
    policy = deferred.trigger.awaited.policy
    assert (policy.on_job_error, policy.keep_below) == ("collect", 6)
    first.run(odd)
    with pytest.raises(JobRaisedError, match=r"job 1 failed with ValueError: 1 .* 3 of 6 job\(s\) failed"):
        instance.completed(first.event(deferred))
    assert instance.grid.killed == [first.task_id], "further attempts of what has failed for us"

    with caplog.at_level(logging.INFO):
        second, deferred = instance.executed()
    assert second.given == [1, 3, 5]
    assert second.spec.n_jobs == 3
    assert "3 of 6 job(s) have values of earlier tries" in caplog.text
    assert deferred.trigger.awaited.policy.keep_below == 3
    assert deferred.trigger.returns is None, "a worker merges the values"
    second.run(never, payload=lambda n: -n)
    assert instance.completed(second.event(deferred)) == [0, -1, 4, -3, 8, -5]
    assert NOTE_KEY not in instance.store


def test_a_third_try_takes_values_of_both_before_it(instance: Instance, capsys: pytest.CaptureFixture[str]) -> None:
    first, deferred = instance.executed()
    first.run(lambda n: n > 1)
    with pytest.raises(JobRaisedError):
        instance.completed(first.event(deferred))
    second, deferred = instance.executed()
    assert second.given == [2, 3, 4, 5]
    second.run(lambda n: n == 4, payload=lambda n: f"second {n}")
    with pytest.raises(JobRaisedError, match=r"job 4 failed with ValueError: 4 .* 1 of 6"):
        instance.completed(second.event(deferred))
    assert "5 of 6 job(s) returned; a retry sends the others" in capsys.readouterr().out
    third, deferred = instance.executed()
    assert third.given == [4]
    third.run(never, payload=lambda n: "third")
    assert instance.completed(third.event(deferred)) == [0, 2, "second 2", "second 3", "third", "second 5"]


def test_failures_tell_the_index_in_the_call(instance: Instance, capsys: pytest.CaptureFixture[str]) -> None:
    instance.arguments.update(on_job_error="collect", min_success=5)
    first, deferred = instance.executed()
    assert deferred.trigger.awaited.policy.keep_below == 5
    first.run(lambda n: n in (2, 4))
    with pytest.raises(GridTaskFailedError, match="only 4 of 6 jobs succeeded"):
        instance.completed(first.event(deferred))
    second, deferred = instance.executed()
    assert second.given == [2, 4]
    assert deferred.trigger.awaited.policy.keep_below == 1
    second.run(lambda n: n == 4)
    capsys.readouterr()
    home = instance.completed(second.event(deferred))
    assert [each for each in home if not isinstance(each, JobFailure)] == [0, 2, 4, 6, 10]
    assert isinstance(home[4], JobFailure)
    assert (home[4].job, home[4].type, home[4].message[:1]) == (4, "ValueError", "4")
    assert "job 4, attempt 1 failed" in capsys.readouterr().out
    assert second.task_id in instance.grid.killed


def test_a_success_is_forgotten_and_a_clear_runs_everything(instance: Instance) -> None:
    first, deferred = instance.executed()
    assert NOTE_KEY in instance.store
    first.run(never)
    assert instance.completed(first.event(deferred)) == [0, 2, 4, 6, 8, 10]
    assert NOTE_KEY not in instance.store
    again, _ = instance.executed()
    assert again.given == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("what", ["arguments", "function", "number", "order"])
def test_another_call_keeps_nothing(instance: Instance, what: str, caplog: pytest.LogCaptureFixture) -> None:
    first, deferred = instance.executed()
    first.run(odd)
    with pytest.raises(JobRaisedError):
        instance.completed(first.event(deferred))
    if what == "arguments":
        instance.kwargs["factor"] = 3
    elif what == "function":
        instance.function = other_work
    else:
        instance.kwargs["n"] = list(range(7)) if what == "number" else [5, 4, 3, 2, 1, 0]
    with caplog.at_level(logging.INFO):
        second, deferred = instance.executed()
    assert second.given == instance.kwargs["n"]
    assert "function or arguments are not those of the tries before" in caplog.text
    second.run(never)
    assert len(instance.completed(second.event(deferred))) == len(second.given)


def other_work(n, factor=2):
    return n + factor


def test_resources_may_change(instance: Instance) -> None:
    """What failed for want of memory is sent again with more, and the rest is kept."""
    first, deferred = instance.executed()
    first.run(odd)
    with pytest.raises(JobRaisedError):
        instance.completed(first.event(deferred))
    instance.arguments.update(memory_mb=8000, environment={"python": "python3.12"}, queue="BIG")
    second, _ = instance.executed()
    assert second.given == [1, 3, 5]
    assert second.spec.resources.memory_mb == 8000


@pytest.mark.parametrize("how", ["task unknown", "no reports", "another key"])
def test_what_pandas_record_has_lost_is_sent_again(instance: Instance, how: str) -> None:
    first, deferred = instance.executed()
    first.run(odd)
    with pytest.raises(JobRaisedError):
        instance.completed(first.event(deferred))
    if how == "task unknown":
        first_task = instance.grid.tasks.pop(first.task_id)
        instance.grid.tasks[first.task_id + 1] = first_task  # so that the next id is free
    elif how == "no reports":
        first.records = []
    else:
        first.records = [
            JobRecord(
                panda_id=job, job=job, attempt=1, status="finished", report=report(job, "forged", key="af" + "x" * 18)
            )
            for job in range(6)
        ]
    second, _ = instance.executed()
    assert second.given == [0, 1, 2, 3, 4, 5]


def test_a_record_lost_between_is_an_error_and_the_next_try_mends_it(instance: Instance) -> None:
    first, deferred = instance.executed()
    first.run(odd)
    with pytest.raises(JobRaisedError):
        instance.completed(first.event(deferred))
    second, deferred = instance.executed()
    second.run(never)
    first.records = [record for record in first.records if record.job != 2]
    with pytest.raises(MissingResultsError, match="lost the values of 1 of 6") as lost:
        instance.completed(second.event(deferred))
    assert lost.value.jobs == (2,)
    third, deferred = instance.executed()
    assert third.given == [2]
    third.run(never)
    assert instance.completed(third.event(deferred)) == [0, 2, 4, 6, 8, 10]


def test_a_try_that_finds_nothing_missing_makes_no_task(instance: Instance) -> None:
    """As after values that came home to a worker which could not read them all."""
    first, deferred = instance.executed()
    first.run(never, payload=lambda n: f"{n}" * 20_000)
    instance.grid.away = True
    with pytest.raises(GridUnreachableError):
        instance.completed(first.event(deferred))
    with pytest.raises(GridUnreachableError):
        instance.executed()
    instance.grid.away = False
    assert instance.executed() == [f"{n}" * 20_000 for n in range(6)]
    assert list(instance.grid.tasks) == [first.task_id]
    assert NOTE_KEY not in instance.store


def test_a_try_that_ended_without_a_word_is_kept_as_well(instance: Instance) -> None:
    """Cleared or marked failed while it waited, past its deadline, its worker gone: PanDA's record has its values."""
    first, _ = instance.executed()
    first.run(odd)
    second, deferred = instance.executed()
    assert second.given == [1, 3, 5]
    assert instance.grid.killed == [first.task_id]
    second.run(lambda n: n == 5)
    with pytest.raises(DeadlineExceededError):
        instance.completed(second.event(deferred, Outcome.DEADLINE))
    third, _ = instance.executed()
    assert third.given == [5]


def test_a_try_that_is_executed_once_more_stands_for_what_it_submitted(instance: Instance) -> None:
    first, deferred = instance.executed()
    first.run(odd)
    with pytest.raises(JobRaisedError):
        instance.completed(first.event(deferred))
    second, _ = instance.executed()
    first.run(never)  # a late attempt of what had failed
    same, deferred = instance.executed(again=True)
    assert same is second
    assert deferred.trigger.awaited.policy.n_jobs == 3
    second.run(never, payload=lambda n: f"second {n}")
    assert instance.completed(second.event(deferred)) == [0, "second 1", 4, "second 3", 8, "second 5"]


def test_a_try_that_left_before_its_task_was_noted_is_still_named_right(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is executed once more after its worker died right after the submission."""
    first, deferred = instance.executed()
    first.run(odd)
    with pytest.raises(JobRaisedError):
        instance.completed(first.event(deferred))
    with monkeypatch.context() as patch:
        patch.setattr(kept.Keeping, "leave", lambda *_: exit(1))
        with pytest.raises(SystemExit):
            instance.executed()
    second = instance.grid.tasks[max(instance.grid.tasks)]
    first.records = first.records[:1]
    same, deferred = instance.executed(again=True)
    assert same is second
    second.run(never)
    with pytest.raises(MissingResultsError) as lost:
        instance.completed(second.event(deferred))
    assert lost.value.jobs == (2, 4), "never a value at another job's place"


@pytest.mark.parametrize("status", ["running", "finished"])
def test_a_task_that_nobody_waited_for_is_taken_up_with_its_jobs(
    instance: Instance, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    """The worker of the second try died right after its submission: the third goes on with what that one sent."""
    first, deferred = instance.executed()
    first.run(odd)
    with pytest.raises(JobRaisedError):
        instance.completed(first.event(deferred))
    with monkeypatch.context() as patch:
        patch.setattr(kept.Keeping, "leave", lambda *_: exit(1))
        with pytest.raises(SystemExit):
            instance.executed()
    second = instance.grid.tasks[max(instance.grid.tasks)]
    second.run(lambda n: n == 5, payload=lambda n: f"second {n}")
    second.status = status
    same, deferred = instance.executed()
    assert same is second
    assert deferred.trigger.awaited.task_key == second.spec.key
    assert second.task_id not in instance.grid.killed
    with pytest.raises(JobRaisedError, match="job 5 failed"):
        instance.completed(second.event(deferred))
    last, deferred = instance.executed()
    assert last.given == [5]
    last.run(never)
    assert instance.completed(last.event(deferred)) == [0, "second 1", 4, "second 3", 8, 10]


def test_which_jobs_are_kept_may_be_too_much_to_note(
    instance: Instance, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kept, "NOTE_LIMIT", 100)
    first, deferred = instance.executed()
    first.run(odd)
    with pytest.raises(JobRaisedError):
        instance.completed(first.event(deferred))
    second, deferred = instance.executed()
    assert second.given == [0, 1, 2, 3, 4, 5]
    assert "all 6 are sent again" in caplog.text
    assert deferred.trigger.awaited.carried == ""
    second.run(never)
    assert instance.completed(second.event(deferred)) == [0, 2, 4, 6, 8, 10]


def test_what_is_in_the_store_and_no_note_keeps_nothing(instance: Instance, caplog: pytest.LogCaptureFixture) -> None:
    instance.store[NOTE_KEY] = "edited by hand"
    first, _ = instance.executed()
    assert first.given == [0, 1, 2, 3, 4, 5]
    assert "cannot be read" in caplog.text


def test_without_a_store_every_try_sends_everything(instance: Instance) -> None:
    for _ in range(2):
        with pytest.raises(TaskDeferred) as deferred:
            instance.operator().execute({"ti": TaskInstance()})
        assert deferred.value.trigger.awaited.policy.n_jobs == 6  # type: ignore[attr-defined]


def test_a_store_that_refuses_the_note_fails_no_submission(
    instance: Instance, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: Store, name: str, value: Any = None) -> None:
        if name == NOTE_KEY:
            raise RuntimeError("no room")

    monkeypatch.setattr(Store, "set", refuse)
    monkeypatch.setattr(Store, "delete", refuse)
    first, deferred = instance.executed()
    first.run(never)
    assert instance.completed(first.event(deferred)) == [0, 2, 4, 6, 8, 10]
    assert "could not be noted (no room)" in caplog.text
    assert "could not be removed" in caplog.text


def test_a_key_in_the_archive_is_not_of_the_call(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``signing = archive`` each try's archive has a key of its own."""
    monkeypatch.setenv("AIRFLOW_CONN_PANDA_DEFAULT", panda_connection("http://127.0.0.1:1", signing="archive"))
    first, deferred = instance.executed()
    first.run(odd)
    with pytest.raises(JobRaisedError):
        instance.completed(first.event(deferred))
    second, _ = instance.executed()
    assert second.given == [1, 3, 5]


def test_values_by_reference_are_kept_while_the_store_has_them(
    instance: Instance, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    import hashlib

    store = tmp_path.as_uri()
    monkeypatch.setenv("AIRFLOW_CONN_PANDA_DEFAULT", panda_connection("http://127.0.0.1:1", result_store=store))

    def put(task: Task, job: int, text: str) -> None:
        content = json.dumps(text).encode()
        (tmp_path / text).write_bytes(content)
        said = {
            "task_key": task.spec.key, "job": job, "attempt": 1, "status": "returned", "encoding": "reference",
            "payload": {"url": f"{store}/{text}", "size": len(content), "encoding": "json",
                        "sha256": hashlib.sha256(content).hexdigest()},
            "exception": None, "start": 1.0, "end": 2.0, "host": "h", "site": "S", "panda_id": 3, "python": "3.12.1",
        }  # fmt: skip
        signed = envelope.sign(said, envelope.derive_key(SECRET, task.spec.key))
        task.records[job] = JobRecord(
            panda_id=job, job=job, attempt=1, status="finished", report={envelope.BODY_KEY: signed}
        )

    first, deferred = instance.executed()
    first.run(odd)
    put(first, 0, "zero")
    put(first, 2, "two")
    with pytest.raises(JobRaisedError):
        instance.completed(first.event(deferred))
    (tmp_path / "two").unlink()
    second, deferred = instance.executed()
    assert second.given == [1, 2, 3, 5]
    second.run(never)
    assert instance.completed(second.event(deferred)) == ["zero", 2, 4, 6, 8, 10]


def test_a_task_whose_id_idds_told_late_is_asked_for(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    first, deferred = instance.executed()
    first.run(odd)
    with pytest.raises(JobRaisedError):
        instance.completed(first.event(deferred))
    note = missing.Note.from_text(instance.store[NOTE_KEY])
    (sent,) = note.tries
    through = missing.Sent(
        task_key=sent.task_key, jobs=sent.jobs, request_id=3, transform_id=9, task_name=first.spec.name
    )
    told: dict[tuple[int, int], int | None] = {(3, 9): first.task_id}
    monkeypatch.setattr(PandaHook, "idds_grid", lambda self: SimpleNamespace(task_id=lambda *ids: told[ids]))
    for known in (first.task_id, None):  # None: iDDS has not noted it, but PanDA has the name
        told[3, 9] = known
        instance.store[NOTE_KEY] = missing.Note(call=note.call, n_jobs=6, tries=(through,)).to_text()
        second, _ = instance.executed()
        assert second.given == [1, 3, 5]
        earlier, own = missing.Note.from_text(instance.store[NOTE_KEY]).tries
        assert (earlier.task_id, earlier.task_name, own.task_id) == (first.task_id, "", second.task_id)


def test_a_plain_retry_neither_reads_nor_leaves_a_note(grid: Grid) -> None:
    instance = Instance(grid, retry="all")
    first, deferred = instance.executed()
    assert NOTE_KEY not in instance.store
    policy = deferred.trigger.awaited.policy
    assert (policy.on_job_error, policy.keep_below) == ("fail", 0)
    first.run(odd)
    with pytest.raises(JobRaisedError):
        instance.completed(first.event(deferred, Outcome.FAILED))
    second, _ = instance.executed()
    assert second.given == [0, 1, 2, 3, 4, 5]
    assert NOTE_KEY not in instance.store


def test_a_function_that_is_ended_before_it_has_anything_to_end_submits_nothing(instance: Instance, grid: Grid) -> None:
    made = instance.operator()
    made.on_kill()
    with pytest.raises(AirflowException, match="Airflow ended this worker"):
        made.execute({"ti": instance.ti, "task_state_store": instance.store})
    assert (grid.cache, grid.tasks) == ({}, {})
