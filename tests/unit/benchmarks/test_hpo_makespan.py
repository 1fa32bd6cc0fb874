"""Makespan in simulated time: schedules that can be reckoned by hand, and what holds for all of them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

import benchmarks.hpo_makespan
from airflow_provider_panda.local.options import GridOptions
from benchmarks import hpo_durations
from benchmarks.hpo_durations import Recording
from benchmarks.hpo_makespan import (
    NO_DELAYS,
    Outcome,
    Simulation,
    compare,
    compared_schedules,
    grow,
    ideal,
    orders_of,
    summary,
    uneven,
)
from benchmarks.hpo_schedules import Refill, Rounds, Schedule
from benchmarks.virtual_grid import MAX_ATTEMPT, VirtualGrid

RECORDING = Recording(
    what="", when="", where="", events=0, seed=0, rounds=1, points=4,
    ask_seconds={0: 0.0, 10: 1.0, 20: 3.0}, seconds=(1.0, 2.0, 3.0, 6.0),
)  # fmt: skip
UNEVEN = [10.0, 40.0, 10.0, 40.0]


def grid(slots: int, **changes: Any) -> VirtualGrid:
    return VirtualGrid(GridOptions(data=Path(), slots=slots, **{**NO_DELAYS, **changes}))


def makespan(schedule: Schedule, durations: list[float], slots: int, **changes: Any) -> float:
    with grid(slots, **changes) as virtual:
        schedule.run(virtual, durations, lambda known: 0.0)
        return virtual.passed


def rounds(points: int, **changes: Any) -> Rounds:
    return Rounds(points=points, **{"before": 0.0, "between": 0.0, "after": 0.0, **changes})


def refill(in_flight: int, **changes: Any) -> Refill:
    return Refill(in_flight=in_flight, **{"before": 0.0, "turn": 0.0, "after": 0.0, **changes})


def run(simulation: Simulation) -> list[Outcome]:
    dice = random.Random(7)
    durations = [dice.expovariate(1 / 60) for _ in range(40)]
    return [simulation.run(schedule, durations, 4) for schedule in compared_schedules(4, 40).values()]


def test_ideal_is_all_slots_busy_or_the_longest_job() -> None:
    assert ideal(UNEVEN, 2) == 50
    assert ideal(UNEVEN, 4) == 40
    assert ideal(UNEVEN, 100) == 40


def test_a_round_waits_for_its_last_job() -> None:
    assert makespan(rounds(2), UNEVEN, 2) == 80
    assert makespan(rounds(4), UNEVEN, 2) == 60


def test_a_round_costs_what_is_around_it() -> None:
    assert makespan(rounds(2, before=1.0, between=5.0, after=2.0), UNEVEN, 2) == 1 + 40 + 5 + 40 + 2


def test_rounds_wait_for_the_optimiser() -> None:
    asked: list[int] = []
    with grid(2) as virtual:
        rounds(2, candidates=3).run(virtual, UNEVEN, lambda known: asked.append(known) or 1.0)  # type: ignore[func-returns-value]
        assert virtual.passed == 2 * 3 * 1 + 40 + 2 * 3 * 1 + 40
    assert asked == [0, 2]


def test_every_task_takes_the_grids_delays() -> None:
    assert makespan(rounds(2), UNEVEN, 2, register_delay=10, queue_delay=2) == 12 + 40 + 12 + 40


def test_refilling_starts_the_next_where_one_ends() -> None:
    assert makespan(refill(2), UNEVEN, 2) == 60


def test_refilling_waits_for_turn_and_registration_unless_work_is_ahead() -> None:
    one = {"register_delay": 10.0}
    assert makespan(refill(1, turn=1.0), [10.0] * 3, 1, **one) == (10 + 10) + (1 + 10 + 10) * 2
    assert makespan(refill(2, turn=1.0), [10.0] * 3, 1, **one) == 10 + 10 + 1 + 10 + 10
    assert makespan(refill(2, turn=1.0), [10.0] * 4, 1, **one) == 10 + 10 + 1 + 10 + 10 + 10


def test_results_that_come_together_are_refilled_by_one_task() -> None:
    with grid(4) as virtual:
        refill(4, gather=5.0).run(virtual, [10.0, 11.0, 12.0, 30.0, 1.0, 1.0, 1.0], lambda known: 0.0)
        assert virtual.tasks == 2
        assert virtual.passed == 30


@pytest.mark.parametrize("slots", [1, 2, 3, 8])
@pytest.mark.parametrize("points", [1, 3, 5, 20])
def test_refilling_is_never_worse_than_rounds(slots: int, points: int) -> None:
    dice = random.Random(slots * 100 + points)
    durations = [dice.choice([1.0, 5.0, 25.0]) for _ in range(20)]
    by_rounds, refilled = makespan(rounds(points), durations, slots), makespan(refill(slots), durations, slots)
    assert ideal(durations, slots) <= refilled <= by_rounds


def test_a_job_does_not_share_its_slot_and_its_wrapper_takes_time() -> None:
    options = GridOptions(data=Path(), slots=1, **NO_DELAYS)  # type: ignore[arg-type]
    with VirtualGrid(options, wrapper=6.0) as virtual:
        rounds(2).run(virtual, [10.0, 20.0], lambda known: 0.0)
        assert (virtual.passed, virtual.busy) == (42, 30)


def test_lost_attempts_are_tried_again_and_then_given_up() -> None:
    with grid(1, failure_rate=1.0, retry_delay=100.0) as virtual:
        task = virtual.submit([10.0])
        virtual.wait_until(lambda: not task.missing)
        assert (virtual.attempts, virtual.busy) == (MAX_ATTEMPT, 0)
        assert 200 <= virtual.passed <= 200 + 10 * MAX_ATTEMPT


def test_status_messages_are_counted() -> None:
    with grid(1) as virtual:
        rounds(1).run(virtual, [1.0], lambda known: 0.0)
        # task: defined, running, prepared, done; job: pending, defined, activated, starting, running, finished
        assert virtual.messages == 4 + 6


def test_what_never_comes_is_an_error() -> None:
    with grid(1) as virtual, pytest.raises(RuntimeError, match="nothing is due"):
        virtual.wait_until(lambda: False)


def test_the_same_seed_gives_the_same_figures() -> None:
    lossy = Simulation(recording=RECORDING, delays={"retry_delay": 10.0}, failure_rate=0.2, seed=3)
    assert run(lossy) == run(lossy)
    assert run(lossy) != run(Simulation(recording=RECORDING, delays={"retry_delay": 10.0}, failure_rate=0.2, seed=4))


def test_an_optimisers_time_grows_between_what_was_recorded() -> None:
    assert [RECORDING.ask_time(known) for known in (0, 5, 10, 15, 20, 40)] == [0.0, 0.5, 1.0, 2.0, 3.0, 6.0]


def test_durations_keep_their_unevenness_when_scaled() -> None:
    assert RECORDING.scaled(600.0) == [240.0, 480.0, 720.0, 1440.0]
    assert uneven([240.0, 480.0, 720.0, 1440.0], 1.0) == [240.0, 480.0, 720.0, 1440.0]
    assert uneven([1.0, 2.0, 6.0], 2.0) == [0.5, 2.0, 18.0]


def test_orders_are_the_recorded_one_and_others_of_the_same_durations() -> None:
    first, second, third = orders_of(UNEVEN * 5, 3, seed=1)
    assert first == UNEVEN * 5
    assert sorted(second) == sorted(third) == sorted(first)
    assert len({tuple(first), tuple(second), tuple(third)}) == 3
    assert len(hpo_durations.drawn(UNEVEN, 10, 1)) == 10


def test_the_recording_beside_the_benchmark_is_of_200_evaluations(tmp_path: Path) -> None:
    recording = hpo_durations.read(hpo_durations.RECORDED)
    assert len(recording.seconds) == recording.rounds * recording.points == 200
    assert min(recording.seconds) > 0
    hpo_durations.write(recording, tmp_path / "again.json")
    assert hpo_durations.read(tmp_path / "again.json") == recording


def test_the_headline_is_todays_four_rounds_in_the_middle_of_the_range() -> None:
    orders = [UNEVEN * 2]
    compared = compare(Simulation(recording=RECORDING, delays={}), orders, [2, 4, 8])
    figures = summary(compared, orders)
    assert figures["over_ideal_is"] == {"schedule": "today_4x2", "slots": 4}
    assert figures["over_ideal"] == figures["over_ideal_by"]["today_4x2"]["4"] > 1
    assert set(figures["ideal_s"]) == {"2", "4", "8"}


def test_the_growth_plan_says_what_a_grid_sees_in_an_hour(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmarks.hpo_makespan, "GROWTH", ((40, 4),))
    figures = grow(Simulation(recording=RECORDING, delays=NO_DELAYS), [600.0, 1200.0], seed=1)["40x4"]

    assert list(figures) == ["rounds_4", "rounds_10", "refill", "refill_gathered"]
    assert figures["refill"]["over_ideal"] < figures["rounds_10"]["over_ideal"]
    assert figures["refill"]["tasks_per_h"] > 2 * figures["rounds_10"]["tasks_per_h"]
    for name, tasks in (("rounds_4", 4), ("rounds_10", 10)):
        assert figures[name]["tasks_per_h"] * figures[name]["makespan_h"] == pytest.approx(tasks, rel=0.05)
        assert figures[name]["results_per_h"] * figures[name]["makespan_h"] == pytest.approx(40, rel=0.05)
    assert capsys.readouterr().out.count("40 on 4") == 4
