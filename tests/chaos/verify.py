"""Decides what became of every task: what Airflow says, beside what must be, beside what the grid was asked for."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from tests.chaos.workload import TOTAL, TRIES, Workload

ENDED: Final = frozenset({"done", "finished", "failed", "aborted", "broken", "exhausted"})
"""States of PanDA tasks that nothing follows."""

OVERLAP: Final = 10.0
"""Seconds that the kill of an earlier try's task may take."""

NO_VALUE: Final = object()
"""Stands for an XCom that is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSeen:
    """A task instance at the end, as Airflow tells it.

    :param value: its return value; :data:`NO_VALUE` if there is none.
    """

    dag_id: str
    run_id: str
    task_id: str
    state: str | None
    tries: int
    value: Any

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"{self.dag_id}/{self.run_id}/{self.task_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GridTaskSeen:
    """A PanDA task at the end, as the grid keeps it.

    :param attempts: attempts of all its jobs together.
    :param created: Unix time of its submission.
    :param ended: Unix time of its end; None if it has not ended.
    """

    jedi_id: int
    name: str
    state: str
    attempts: int
    created: float = 0.0
    ended: float | None = None

    @property
    def owner(self) -> tuple[str, str, str]:
        """DAG, run and task that it was made for: its name has them in front, and the workload's need no shortening."""
        _, dag_id, task_id, run_id, _ = self.name.split("-")
        return dag_id, run_id, task_id

    @property
    def key(self) -> str:
        """Its task key."""
        return self.name.rpartition("-")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a run came to.

    :param tasks: grid tasks of Airflow.
    :param jobs: their jobs, by the workload.
    :param lost: tasks that ended without their value.
    :param doubled: what was counted or asked for twice.
    :param orphaned: PanDA tasks that live on with nobody waiting for them.
    :param outlived: PanDA tasks that lived on for longer than :data:`OVERLAP` beside the one of a later try.
    :param in_vain: PanDA tasks that ran to their end although a later try had taken their place.
    :param recovered: tasks that have their value after a further try, or a further attempt at a job.
    :param retries: tries beyond what the workload needs by itself.
    """

    tasks: int
    jobs: int
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    orphaned: list[str] = field(default_factory=list)
    outlived: list[str] = field(default_factory=list)
    in_vain: list[str] = field(default_factory=list)
    recovered: int = 0
    retries: int = 0


def judge(
    workload: Workload,
    runs: Collection[tuple[str, str]],
    tasks: Sequence[TaskSeen],
    grid: Sequence[GridTaskSeen],
) -> Verdict:
    """Return the verdict on a run.

    :param workload: says what must be.
    :param runs: DAG id and run id of each DAG run that was started.
    :param tasks: what Airflow has.
    :param grid: what the grid has.
    """
    seen = {(task.dag_id, task.run_id, task.task_id): task for task in tasks}
    made: Mapping[tuple[str, str, str], list[GridTaskSeen]] = _by_owner(grid)
    lost: list[str] = []
    doubled = [f"{n} PanDA tasks of key {key}" for key, n in Counter(each.key for each in grid).items() if n > 1]
    outlived: list[str] = []
    in_vain: list[str] = []
    n_tasks = n_jobs = recovered = retries = 0
    for dag_id, run_id in runs:
        jobs_of = workload.grid_tasks(dag_id)
        for task_id, expected in workload.expected(dag_id, run_id).items():
            task = seen.get((dag_id, run_id, task_id))
            if task is None:
                lost.append(f"{dag_id}/{run_id}/{task_id}: Airflow has no such task instance")
                continue
            _judge_value(task, expected, lost, doubled)
            if task_id == TOTAL:
                continue
            n_tasks += 1
            n_jobs += jobs_of[task_id]
            mine = made.get((dag_id, run_id, task_id), [])
            needed = TRIES.get(task_id, 1)
            retries += max(0, task.tries - needed)
            attempts = sum(each.attempts for each in mine)
            if task.state == "success" and (
                task.tries > needed or attempts > workload.attempts(task_id, jobs_of[task_id])
            ):
                recovered += 1
            alive = [each for each in mine if each.state not in ENDED]
            if len(alive) > 1:
                doubled.append(f"{task.label}: PanDA tasks {[each.jedi_id for each in alive]} live at the same time")
            done = [each.jedi_id for each in mine if each.state == "done"]
            outlived += _outlived(task, mine)
            in_vain += [f"{task.label}: PanDA task {jedi_id}" for jedi_id in sorted(done)[:-1]]
    orphaned = [f"{each.name}: PanDA task {each.jedi_id} is {each.state}" for each in grid if each.state not in ENDED]
    return Verdict(
        tasks=n_tasks, jobs=n_jobs, lost=lost, doubled=doubled, orphaned=orphaned, outlived=outlived, in_vain=in_vain,
        recovered=recovered, retries=retries,
    )  # fmt: skip


def _judge_value(task: TaskSeen, expected: Any, lost: list[str], doubled: list[str]) -> None:
    if task.state != "success":
        lost.append(f"{task.label}: {task.state} after {task.tries} tries")
    elif task.value is NO_VALUE:
        lost.append(f"{task.label}: success without a value")
    elif task.value != expected:
        several = isinstance(task.value, list) and isinstance(expected, list) and task.task_id != TOTAL
        twice = several and any(n > 1 for n in Counter(map(repr, task.value)).values())
        (doubled if twice else lost).append(f"{task.label}: returned {task.value!r:.300}, not {expected!r:.300}")


def _outlived(task: TaskSeen, mine: Sequence[GridTaskSeen]) -> list[str]:
    by_age = sorted(mine, key=lambda each: each.jedi_id)
    return [
        f"{task.label}: PanDA task {earlier.jedi_id} beside {later.jedi_id}"
        for earlier, later in pairwise(by_age)
        if earlier.ended is None or earlier.ended > later.created + OVERLAP
    ]


def _by_owner(grid: Sequence[GridTaskSeen]) -> dict[tuple[str, str, str], list[GridTaskSeen]]:
    made: dict[tuple[str, str, str], list[GridTaskSeen]] = defaultdict(list)
    for each in grid:
        made[each.owner].append(each)
    return made
