"""Makespan and utilisation of a hyperparameter search on the grid, by schedule and number of slots, in simulated time.

The durations of the evaluations are those of a real search (``hpo_durations.json``: CPU seconds of dags/tth_toy at the
200 points of one search by dags/tth_search, four rounds of 50), all stretched by one factor to a median of 10 minutes.
They are fairly even (0.6 to 2.3 medians); real sites and real data are less so, and ``--unevenness`` tells what then.

The grid is the embedded one, its own engine and slots, driven by a clock that jumps (``virtual_grid.py``). Its delays
are those measured with a real PanDA server, and the slots are the search's alone: batch systems' queues are not in it.
Compared on the same grid, with the same durations:

* today: the rounds of dags/tth_hpo.py with what Airflow takes around each, measured in ``make demo``. 4 rounds of 50
  are what the DAG does with 200 points now; more rounds need a larger ``ROUNDS`` there.
* iDDS: the batch loop of its ttH example, 10 rounds of 20, with the times measured of iDDS 2.6.21. Its optimiser is
  taken to need no time, and its mapped call to work, which it does not (facts/idds.md section 6, row 19).
* refill: the next step. Ask and tell without rounds, each result followed by the next evaluation as soon as it is in,
  with as many evaluations in flight as there are slots, or a quarter more to hide the grid's delays.

Ideal is the sum of the durations over the slots, or the longest of them if that is more. ``over_ideal`` is the
makespan of today's 4 rounds over ideal on 16 slots, the middle of the range; it has no target.
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

if __name__ == "__main__":
    sys.path.pop(0)  # this folder, where airflow.py would be taken for Airflow
sys.path.insert(0, str(Path(__file__).parents[1]))

from airflow_provider_panda.local.options import GridOptions
from benchmarks import hpo_durations
from benchmarks.hpo_durations import Recording
from benchmarks.hpo_schedules import Refill, Rounds, Schedule
from benchmarks.report import finish, print_table, spread
from benchmarks.virtual_grid import VirtualGrid

EVALUATIONS: Final = 200
SLOTS: Final = (4, 8, 16, 32, 64)
ROUNDS: Final = (4, 10, 25)
"""Rounds of today's schedule that are compared: the DAG's, iDDS's, and those of the DAG's default of 8 points."""
HEADLINE_SLOTS: Final = 16

DELAYS: Final[dict[str, dict[str, float]]] = {
    # facts/panda.md section 5: submit -> visible 5-15 s, visible -> running 0.5-4.4 s, holding -> final 1.5-11.4 s,
    # submit -> done of a no-op 56-61 s, next attempt "up to a couple of minutes".
    "panda": {
        "register_delay": 10.0, "queue_delay": 2.5, "report_delay": 6.0, "finish_delay": 40.0, "retry_delay": 120.0,
    },
    "embedded": {},
}  # fmt: skip
"""Seconds of the grid's own steps: as measured with a real PanDA server, or as the embedded grid has them."""
NO_DELAYS: Final = dict.fromkeys(DELAYS["panda"], 0.0)

AIRFLOW: Final = {"before": 9.6, "between": 5.3, "after": 2.1}
"""Seconds that Airflow adds to rounds, from ``make demo`` of 26 Nov 2026 (2 cores, SQLite, LocalExecutor, scheduler
heartbeat 1 s): start of the run to the creation of round 1's PanDA task 9.55; end of a round's last job to the creation
of the next one's task 5.34, 5.56, 4.40, which is message, event, settle, resume, ``tell``, ``suggest`` of 8 points, and
the submitting leg of ``evaluate``; end of the last job to the end of ``tell`` 2.06."""
CANDIDATES: Final = 4
"""Points that dags/tth_search asks the optimiser for each evaluation."""
RUNNER: Final = 0.5
"""Seconds of a slot before our function starts (facts/peers.md, "Numbers to beat": below this)."""

IDDS: Final = {"before": 3.1, "between": 12.6, "after": 10.0, "wrapper": 6.0}
"""Seconds that iDDS adds (facts/idds.md section 6): transform to PanDA's submission 2.6, a workflow's upload 0.5 once,
9.2-10.8 from a job's end until ``wait_results`` returns, 5-7 in the slot before the function. Together with the grid's
own steps they are the 18-21 s of a no-op, which is not counted once more."""

TURN: Final = 0.5
"""Seconds of a turn of refilling besides the optimiser: message to event below 0.2, archive, two calls to PanDA."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a schedule.

    :param makespan: seconds from the start until the last result is known.
    :param over_ideal: makespan over the ideal one.
    :param utilisation: share of all slots' time in which functions ran.
    :param tasks: PanDA tasks.
    :param messages: status messages of tasks and jobs.
    """

    makespan: float
    over_ideal: float
    utilisation: float
    tasks: int
    messages: int


def ideal(durations: Sequence[float], slots: int) -> float:
    """Return the seconds that no schedule can beat: all slots always busy, but no job divided."""
    return max(sum(durations) / slots, max(durations))


def rounds(count: int, evaluations: int) -> Rounds:
    """Return the schedule of dags/tth_hpo.py with so many rounds."""
    return Rounds(points=math.ceil(evaluations / count), **AIRFLOW, wrapper=RUNNER, candidates=CANDIDATES)


def refill(in_flight: int, gather: float = 0.0) -> Refill:
    """Return ask and tell without rounds, inside one deferred Airflow task."""
    return Refill(
        in_flight=in_flight, gather=gather, turn=TURN, wrapper=RUNNER, candidates=CANDIDATES,
        before=AIRFLOW["before"], after=AIRFLOW["after"],
    )  # fmt: skip


def compared_schedules(slots: int, evaluations: int) -> dict[str, Schedule]:
    """Return the schedules to compare, by their keys."""
    today = {f"today_{count}x{math.ceil(evaluations / count)}": rounds(count, evaluations) for count in ROUNDS}
    points = math.ceil(evaluations / 10)
    return {
        **today,
        f"idds_10x{points}": Rounds(points=points, **IDDS, candidates=0),
        "refill": refill(slots),
        "refill_ahead": refill(slots + math.ceil(slots / 4)),
    }


def bare_schedules(slots: int, evaluations: int) -> dict[str, Schedule]:
    """Return today's rounds without anything that Airflow or the runner adds, by the same keys."""
    points = [math.ceil(evaluations / count) for count in ROUNDS]
    return {
        f"today_{count}x{each}": Rounds(points=each, before=0.0, between=0.0, after=0.0, candidates=0)
        for count, each in zip(ROUNDS, points, strict=True)
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """What all schedules have in common.

    :param recording: of the optimiser's times.
    :param delays: seconds of the grid's own steps, as fields of :class:`GridOptions`.
    :param failure_rate: chance that an attempt is lost, 0 to 1.
    :param seed: of those losses.
    """

    recording: Recording
    delays: Mapping[str, float]
    failure_rate: float = 0.0
    seed: int = 0

    def run(self, schedule: Schedule, durations: Sequence[float], slots: int) -> Outcome:
        """Have evaluations made on a grid of their own."""
        delays: Mapping[str, Any] = self.delays
        options = GridOptions(data=Path(), slots=slots, failure_rate=self.failure_rate, seed=self.seed, **delays)
        with VirtualGrid(options, wrapper=schedule.wrapper) as grid:
            schedule.run(grid, durations, self.recording.ask_time)
            return Outcome(
                makespan=grid.passed,
                over_ideal=grid.passed / ideal(durations, slots),
                utilisation=grid.busy / (grid.passed * slots),
                tasks=grid.tasks,
                messages=grid.messages,
            )


# --- the comparison ---

Compared = dict[str, dict[int, list[Outcome]]]
"""Outcomes by schedule and slots, one for each order of the durations."""


def compare(
    simulation: Simulation,
    orders: Sequence[Sequence[float]],
    slots: Sequence[int],
    schedules: Callable[[int, int], Mapping[str, Schedule]] = compared_schedules,
) -> Compared:
    """Run all schedules on all numbers of slots with all orders of the durations."""
    compared: Compared = {}
    for count in slots:
        for name, schedule in schedules(count, len(orders[0])).items():
            outcomes = [simulation.run(schedule, durations, count) for durations in orders]
            compared.setdefault(name, {})[count] = outcomes
    return compared


def uneven(durations: Sequence[float], power: float) -> list[float]:
    """Return durations whose distances from their median are raised to a power, as ratios."""
    middle = statistics.median(durations)
    return [middle * (each / middle) ** power for each in durations]


def orders_of(durations: Sequence[float], count: int, seed: int) -> list[list[float]]:
    """Return the durations in several orders: as recorded first, then at random."""
    return [list(durations), *(hpo_durations.drawn(durations, len(durations), seed + i) for i in range(1, count))]


def medians(compared: Compared, figure: str, digits: int) -> dict[str, dict[str, float]]:
    """Return the medians of a figure by schedule and slots, as JSON has them."""
    return {
        name: {str(slots): round(middle(outcomes, figure), digits) for slots, outcomes in by_slots.items()}
        for name, by_slots in compared.items()
    }


def middle(outcomes: Sequence[Outcome], figure: str) -> float:
    """Return the median of a figure."""
    return float(statistics.median(getattr(outcome, figure) for outcome in outcomes))


def print_comparison(compared: Compared, bare: Compared, durations: Sequence[float]) -> None:
    """Print the tables: makespan, makespan over ideal, utilisation.

    :param bare: the same rounds without any delay.
    """
    slots = list(next(iter(compared.values())))
    columns = [f"{count} slots" for count in slots]

    def row(name: str, show: Callable[[list[Outcome]], str], by_slots: Mapping[int, list[Outcome]]) -> tuple[str, ...]:
        return (name, *(show(by_slots[count]) for count in slots))

    def hours(outcomes: list[Outcome]) -> str:
        return f"{middle(outcomes, 'makespan') / 3600:.2f}"

    def over_ideal(outcomes: list[Outcome]) -> str:
        return spread([outcome.over_ideal for outcome in outcomes], digits=3)

    def utilisation(outcomes: list[Outcome]) -> str:
        return f"{100 * middle(outcomes, 'utilisation'):.1f}"

    best = ("ideal", *(f"{ideal(durations, count) / 3600:.2f}" for count in slots))
    print_table(("makespan in hours", *columns), [best, *(row(name, hours, of) for name, of in compared.items())])
    print()
    rows = []
    for name, of in compared.items():
        rows.append(row(name, over_ideal, of))
        if name in bare:
            rows.append(row("  without any delay", over_ideal, bare[name]))
    print_table(("makespan over ideal", *columns), rows)
    print()
    print_table(("utilisation in %", *columns), [row(name, utilisation, of) for name, of in compared.items()])


# --- growth ---

GROWTH: Final = ((1_000, 64), (1_000, 256), (10_000, 256), (10_000, 1_000))
"""Evaluations and slots of the growth plan."""
GATHER: Final = 30.0
"""Seconds for which ``refill_gathered`` gathers results, a quarter ahead of the slots: fewer PanDA tasks."""


def grow(simulation: Simulation, durations: Sequence[float], seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """Run rounds and refilling in the sizes of the growth plan; print a table and return its figures."""
    rows, figures = [], {}
    for evaluations, slots in GROWTH:
        many = hpo_durations.drawn(durations, evaluations, seed)
        ahead = slots + math.ceil(slots / 4)
        of_size: dict[str, Schedule] = {f"rounds_{count}": rounds(count, evaluations) for count in (4, 10)}
        of_size |= {"refill": refill(slots), "refill_gathered": refill(ahead, GATHER)}
        size = f"{evaluations}x{slots}"
        figures[size] = {
            name: per_hour(simulation.run(schedule, many, slots), evaluations) for name, schedule in of_size.items()
        }
        rows += [(f"{evaluations:,} on {slots:,}", name, *cells(each)) for name, each in figures[size].items()]
    print_table(("evaluations on slots", "schedule", *PER_HOUR.values()), rows)
    return figures


PER_HOUR: Final = {
    "makespan_h": "hours", "over_ideal": "over ideal", "utilisation": "utilisation", "tasks_per_h": "PanDA tasks/h",
    "results_per_h": "results/h", "messages_per_h": "status messages/h",
}  # fmt: skip
"""Figures of the growth plan, and their columns."""


def per_hour(outcome: Outcome, evaluations: int) -> dict[str, float]:
    """Return what a grid sees of a schedule."""
    hours = outcome.makespan / 3600
    return {
        "makespan_h": round(hours, 2),
        "over_ideal": round(outcome.over_ideal, 3),
        "utilisation": round(outcome.utilisation, 3),
        "tasks_per_h": round(outcome.tasks / hours, 1),
        "results_per_h": round(evaluations / hours),
        "messages_per_h": round(outcome.messages / hours),
    }


def cells(figures: Mapping[str, float]) -> list[str]:
    """Return the figures of the growth plan as a table shows them."""
    return [f"{figures[key]:,g}" if figures[key] < 1000 else f"{figures[key]:,.0f}" for key in PER_HOUR]


# --- the program ---


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--evaluations", type=int, default=EVALUATIONS, help="evaluations of the search (default: %(default)s)")
    add("--slots", type=int, nargs="+", default=SLOTS, help="numbers of slots (default: 4 8 16 32 64)")
    add("--median-minutes", type=float, default=10.0, help="median of the durations (default: %(default)s)")
    add("--unevenness", type=float, default=1.0, metavar="P", help="power of their distances (default: %(default)s)")
    add("--orders", type=int, default=3, help="orders of the durations, the recorded one first (default: %(default)s)")
    add("--grid", choices=DELAYS, default="panda", help="whose delays: a real PanDA's, or the embedded grid's defaults")
    add("--failure-rate", type=float, default=0.0, metavar="F", help="chance that an attempt is lost, 0 to 1")
    add("--seed", type=int, default=0, help="seed of orders and losses (default: %(default)s)")
    add("--growth", action="store_true", help="larger sizes as well: what a grid and a broker see of them")
    add("--record", type=Path, metavar="FILE", help="do nothing but record durations on this machine, 2-4 minutes")
    add("--events", type=int, default=8000, help="training events of a recording (default: %(default)s)")
    return parser.parse_args()


def main() -> int:
    """Simulate, print the tables, and one JSON object."""
    args = parse()
    if args.record:
        hpo_durations.write(hpo_durations.record(events=args.events, seed=1, rounds=4, points=50), args.record)
        return 0
    logging.disable(logging.WARNING)  # the engine's own story
    recording = hpo_durations.read(hpo_durations.RECORDED)
    durations = uneven(recording.scaled(args.median_minutes * 60), args.unevenness)
    if args.evaluations != len(durations):
        durations = hpo_durations.drawn(durations, args.evaluations, args.seed)
    orders = orders_of(durations, args.orders, args.seed)
    simulation = Simulation(
        recording=recording, delays=DELAYS[args.grid], failure_rate=args.failure_rate, seed=args.seed
    )
    print(
        f"{len(durations)} evaluations of {min(durations) / 60:.1f} to {max(durations) / 60:.1f} minutes, median "
        f"{statistics.median(durations) / 60:.1f}, {sum(durations) / 3600:.1f} hours in all\n"
    )
    compared = compare(simulation, orders, args.slots)
    bare = compare(replace(simulation, delays=NO_DELAYS), orders, args.slots, bare_schedules)
    print_comparison(compared, bare, durations)
    figures = {**summary(compared, orders), "over_ideal_without_delays_by": medians(bare, "over_ideal", 4)}
    if args.growth:
        print()
        figures["growth"] = grow(simulation, durations, args.seed)
    finish(figures)
    return 0


def summary(compared: Compared, orders: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return the figures of the comparison as JSON has them."""
    schedule = next(iter(compared))
    slots = sorted(compared[schedule])
    at = HEADLINE_SLOTS if HEADLINE_SLOTS in slots else slots[len(slots) // 2]
    over = [outcome.over_ideal for outcome in compared[schedule][at]]
    return {
        "over_ideal": round(statistics.median(over), 4),
        "over_ideal_range": [round(min(over), 4), round(max(over), 4)],
        "over_ideal_is": {"schedule": schedule, "slots": at},
        "over_ideal_by": medians(compared, "over_ideal", 4),
        "utilisation_by": medians(compared, "utilisation", 4),
        "makespan_s_by": medians(compared, "makespan", 1),
        "ideal_s": {str(count): round(ideal(orders[0], count), 1) for count in slots},
        "evaluations": len(orders[0]),
        "orders": len(orders),
    }


if __name__ == "__main__":
    sys.exit(main())
