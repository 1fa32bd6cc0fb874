"""The verdict on a run: each thing that must not be is seen, and nothing else."""

from dataclasses import replace

import pytest

from tests.chaos.report import Report
from tests.chaos.verify import NO_VALUE, GridTaskSeen, TaskSeen, judge
from tests.chaos.watch import Death
from tests.chaos.workload import DIRECT, THROUGH_IDDS, TOTAL, TRIES, Workload

WORKLOAD = Workload(jobs=3, idds=True)
RUNS = [(DIRECT, "run0000"), (THROUGH_IDDS, "run0001")]


def good_tasks():
    return {
        (dag_id, task_id): TaskSeen(
            dag_id=dag_id, run_id=run_id, task_id=task_id, state="success", tries=TRIES.get(task_id, 1), value=value
        )
        for dag_id, run_id in RUNS
        for task_id, value in WORKLOAD.expected(dag_id, run_id).items()
    }


def good_grid():
    made, jedi_id = [], 0
    for dag_id, run_id in RUNS:
        for task_id, jobs in WORKLOAD.grid_tasks(dag_id).items():
            for last in range(TRIES.get(task_id, 1)):
                jedi_id += 1
                attempts = WORKLOAD.attempts(task_id, jobs) if TRIES.get(task_id, 1) == 1 else 1
                made.append(grid_task(jedi_id, dag_id, task_id, run_id, attempts=attempts))
                if last + 1 < TRIES.get(task_id, 1):
                    made[-1] = replace(made[-1], state="failed")
    return made


def grid_task(jedi_id, dag_id, task_id, run_id, *, key=None, **more):
    name = f"airflow-{dag_id}-{task_id}-{run_id}-{key or f'afkey{jedi_id:015d}'}"
    fields = {"state": "done", "attempts": 1, "created": 100.0 * jedi_id, "ended": 100.0 * jedi_id + 5, **more}
    return GridTaskSeen(jedi_id=jedi_id, name=name, **fields)


def verdict(tasks=None, grid=None):
    return judge(WORKLOAD, RUNS, list((tasks or good_tasks()).values()), good_grid() if grid is None else grid)


def changed(task_id, dag_id=DIRECT, **changes):
    tasks = good_tasks()
    tasks[dag_id, task_id] = replace(tasks[dag_id, task_id], **changes)
    return tasks


def test_a_run_without_faults_is_clean():
    found = verdict()
    assert (found.lost, found.doubled, found.orphaned, found.outlived, found.in_vain) == ([], [], [], [], [])
    assert (found.tasks, found.jobs) == (8, 4 * 3 + 2 + 3 + 1)
    assert (found.recovered, found.retries) == (0, 0)


def test_no_two_jobs_return_the_same():
    values = []
    for dag_id, run_id in RUNS:
        expected = WORKLOAD.expected(dag_id, run_id)
        for task_id in WORKLOAD.grid_tasks(dag_id):
            value = expected[task_id]
            values += map(repr, value if isinstance(value[0], list) else [value])
    assert len(set(values)) == len(values) == verdict().jobs


@pytest.mark.parametrize(
    "changes",
    [{"state": "failed"}, {"state": "queued"}, {"state": None}, {"value": NO_VALUE}, {"value": None}],
)
def test_a_task_without_its_value_is_lost(changes):
    found = verdict(changed("spread", **changes))
    assert len(found.lost) == 1
    assert "chaos/run0000/spread" in found.lost[0]
    assert found.doubled == []


def test_a_missing_task_instance_is_lost():
    tasks = good_tasks()
    del tasks[DIRECT, "single"]
    assert len(verdict(tasks).lost) == 1


def test_a_job_that_is_left_out_is_lost():
    value = good_tasks()[DIRECT, "spread"].value
    assert len(verdict(changed("spread", value=value[:-1])).lost) == 1
    assert len(verdict(changed("spread", value=[value[1], value[0], value[2]])).lost) == 1


def test_a_job_that_is_counted_twice_is_doubled():
    value = good_tasks()[DIRECT, "spread"].value
    found = verdict(changed("spread", value=[*value[:-1], value[0]]))
    assert len(found.doubled) == 1
    assert found.lost == []


def test_a_wrong_total_is_lost():
    value = good_tasks()[DIRECT, TOTAL].value
    assert len(verdict(changed(TOTAL, value=[value[0], value[1] + 1])).lost) == 1


def test_one_key_with_two_tasks_is_doubled():
    key = "afkey" + "1" * 15
    grid = good_grid()
    grid[0] = grid_task(1, DIRECT, "single", "run0000", key=key)
    grid.append(grid_task(90, DIRECT, "single", "run0000", key=key))
    found = verdict(grid=grid)
    assert found.doubled == [f"2 PanDA tasks of key {key}"]
    assert len(found.in_vain) == 1


def test_two_living_tasks_are_doubled_and_orphaned():
    grid = [each for each in good_grid() if each.owner[2] != "single"]
    grid += [grid_task(n, DIRECT, "single", "run0000", state="running", ended=None) for n in (90, 91)]
    found = verdict(grid=grid)
    assert len(found.doubled) == 1
    assert len(found.orphaned) == 2


def test_a_task_that_lives_on_beside_a_later_one_is_told():
    late, at_once = (grid_task(n, DIRECT, "single", "run0000", ended=end) for n, end in ((90, 9130.0), (91, 9102.0)))
    later = grid_task(92, DIRECT, "single", "run0000", created=9110.0)
    for earlier, told in ((late, 1), (at_once, 0)):
        found = verdict(grid=[*(each for each in good_grid() if each.owner[2] != "single"), earlier, later])
        assert len(found.outlived) == told


def test_further_tries_and_attempts_that_end_well_are_recoveries():
    assert verdict(changed("single", tries=3)).recovered == 1
    assert verdict(changed("single", tries=3)).retries == 2
    assert verdict(changed("fails_once", tries=2)).recovered == 0
    assert verdict(changed("single", tries=3, state="failed")).recovered == 0
    grid = good_grid()
    grid[0] = replace(grid[0], attempts=grid[0].attempts + 1)
    assert verdict(grid=grid).recovered == 1


def report(**changes):
    fields = {
        "seed": 5, "minutes": 1.0, "verdict": verdict(), "faults": {"broker-kill": 2}, "missed": {}, "deaths": (),
        "errors": (), "unfinished": (),
    }  # fmt: skip
    return Report(**{**fields, **changes})


def test_a_clean_report_complains_of_nothing_and_ends_in_json():
    import json

    told = json.loads(report().text().splitlines()[-1])
    assert report().complaints() == []
    assert told["faults"] == {"broker-kill": 2}
    assert (told["seed"], told["tasks"], told["jobs"], told["lost"], told["died"]) == (5, 8, 18, 0, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"deaths": (Death(part="triggerer", at=3.0, tail="Killed"),)},
        {"errors": ("broker-kill: did not start",)},
        {"unfinished": ("chaos/run0000: {}",)},
        {"verdict": verdict(changed("single", state="failed"))},
    ],
)
def test_a_report_complains_of_what_must_not_be(changes):
    assert len(report(**changes).complaints()) == 1
