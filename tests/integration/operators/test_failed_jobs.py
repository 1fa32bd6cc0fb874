"""``retry = "failed_jobs"`` on the embedded grid with a real broker: which jobs run in each try, by what they leave."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_panda.exceptions import GridTaskFailedError, JobRaisedError
from airflow_provider_panda.operators.function import PandaFunctionOperator
from airflow_provider_panda.operators.kept import NOTE_KEY
from airflow_provider_panda.payload.result import JobFailure
from airflow_provider_panda.triggers.function import PandaFunctionTrigger
from demo.grid import Grid
from tests.unit.operators.scene import Store, TaskInstance

JOBS = 20


def measured(n, folder):
    """Leave a file per execution, and fail where the folder says so."""
    import json
    import uuid
    from pathlib import Path

    (Path(folder) / "ran" / f"{n}_{uuid.uuid4()}").touch()
    if n in json.loads((Path(folder) / "fail.json").read_text()):
        raise ValueError(f"{n} fails")
    return [n, "x" * 10]


class Calls:
    """A task instance over its tries, and what ran in each of them."""

    def __init__(self, folder: Path, **arguments: Any) -> None:
        self.folder, self.store = folder, Store()
        (folder / "ran").mkdir()
        self.arguments: dict[str, Any] = {
            "python_callable": measured, "map_over": "n", "retry": "failed_jobs", "max_attempt": 1,
            "environment": {"python": sys.executable}, **arguments,
        }  # fmt: skip
        self.kwargs: dict[str, Any] = {"n": list(range(JOBS)), "folder": str(folder)}
        self.ti = TaskInstance()

    def ran(self) -> Counter[int]:
        """Return how often each job ran since it was asked last."""
        files = list((self.folder / "ran").iterdir())
        for file in files:
            file.unlink()
        return Counter(int(file.name.partition("_")[0]) for file in files)

    def operator(self) -> PandaFunctionOperator:
        return PandaFunctionOperator(task_id="t", op_kwargs=self.kwargs, **self.arguments)

    @property
    def context(self) -> Any:
        return {"ti": self.ti, "task_state_store": self.store}

    def submitted(self) -> PandaFunctionTrigger:
        """Begin a try, and return its trigger as a triggerer makes it."""
        self.ti = TaskInstance()
        with pytest.raises(TaskDeferred) as deferred:
            self.operator().execute(self.context)
        _, kwargs = deferred.value.trigger.serialize()
        return PandaFunctionTrigger(**{**json.loads(json.dumps(kwargs)), "not_before": None})

    async def tried(self, *, failing: list[int]) -> Any:
        """Make one try from its submission to its value or error."""
        (self.folder / "fail.json").write_text(json.dumps(failing))
        event = json.loads(json.dumps((await anext(self.submitted().run())).payload))
        return self.operator().execute_complete(self.context, event)


async def test_each_try_runs_exactly_what_has_no_value_yet(tmp_path: Path) -> None:
    calls = Calls(tmp_path)
    with pytest.raises(JobRaisedError, match=r"job 3 failed with ValueError: 3 fails .* 3 of 20 job\(s\) failed"):
        await calls.tried(failing=[3, 11, 17])
    assert calls.ran() == Counter(range(JOBS)), "no failure ends the others"
    with pytest.raises(JobRaisedError, match=r"job 11 failed with ValueError: 11 fails .* 1 of 20 job\(s\) failed"):
        await calls.tried(failing=[11])
    assert calls.ran() == Counter([3, 11, 17])
    assert await calls.tried(failing=[]) == [[n, "x" * 10] for n in range(JOBS)]
    assert calls.ran() == Counter([11])
    assert NOTE_KEY not in calls.store


async def test_other_arguments_run_everything(tmp_path: Path) -> None:
    calls = Calls(tmp_path)
    calls.kwargs["n"] = [5, 6, 7, 8]
    with pytest.raises(JobRaisedError):
        await calls.tried(failing=[6])
    assert calls.ran() == Counter([5, 6, 7, 8])
    calls.kwargs["n"] = [5, 6, 7, 9]
    assert [n for n, _ in await calls.tried(failing=[])] == [5, 6, 7, 9]
    assert calls.ran() == Counter([5, 6, 7, 9])


async def test_what_pandas_record_has_lost_runs_again(tmp_path: Path, grid: Grid) -> None:
    calls = Calls(tmp_path)
    calls.kwargs["n"] = [0, 1, 2, 3]
    with pytest.raises(JobRaisedError):
        await calls.tried(failing=[1])
    calls.ran()
    with sqlite3.connect(grid.folder / "data" / "grid.sqlite") as connection:
        task_id = calls.ti.xcoms["panda_task_id"]
        lost = connection.execute(
            "UPDATE jobs SET metadata = NULL WHERE panda_id = (SELECT MAX(panda_id) FROM jobs WHERE task_id = ? "
            "AND state = 'finished')",
            (task_id,),
        )
        assert lost.rowcount == 1
    assert [n for n, _ in await calls.tried(failing=[])] == [0, 1, 2, 3]
    ran = calls.ran()
    assert ran == Counter([1, *(set(ran) - {1})])
    assert len(ran) == 2


async def test_pickled_values_too_large_for_an_event_are_kept_and_collected_with_failures(tmp_path: Path) -> None:
    def large(n, folder):
        return {"n": measured(n, folder)[0], "text": "z" * 30_000}

    calls = Calls(tmp_path, python_callable=large, value_format="cloudpickle", on_job_error="collect", min_success=4)
    calls.kwargs["n"] = list(range(5))
    with pytest.raises(GridTaskFailedError, match="only 3 of 5 jobs succeeded"):
        await calls.tried(failing=[1, 4])
    assert calls.ran() == Counter(range(5))
    home = await calls.tried(failing=[4])
    assert calls.ran() == Counter([1, 4])
    *values, failure = home
    assert values == [{"n": n, "text": "z" * 30_000} for n in range(4)]
    assert isinstance(failure, JobFailure)
    assert (failure.job, failure.type, failure.message) == (4, "ValueError", "4 fails")


async def test_a_try_that_was_cleared_while_it_waited_is_kept(tmp_path: Path) -> None:
    """Nobody told anybody anything: PanDA's record has what it did."""
    calls = Calls(tmp_path)
    calls.kwargs["n"] = [0, 1, 2]
    (tmp_path / "fail.json").write_text("[1]")
    trigger = calls.submitted()
    await anext(trigger.run())  # and the event gets lost
    assert calls.ran() == Counter([0, 1, 2])
    assert [n for n, _ in await calls.tried(failing=[])] == [0, 1, 2]
    assert calls.ran() == Counter([1])
