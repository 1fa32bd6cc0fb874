"""How fast, how late and at what cost the hub delivers results to many waiting tasks of one process.

A real ActiveMQ on loopback; the results are signed and framed as a worker node's runner does it, and are published by
this process; another one receives. What is measured:

* **Rate.** A hub with N waiting tasks, and a bare loop (stomp.py's Connection12 with a listener, ``ack=auto``, that
  decodes the JSON of each body and does nothing else), receive the same messages from the same broker, in turns. A
  receiver subscribes and is stopped (SIGSTOP); the messages are published, and wait in the broker; then it goes on
  (SIGCONT), and the time runs until the last message is with ``deliver`` in the loop, or decoded in the listener. So
  neither has to share the machine with the publisher, and neither can wait for it. That neither waits for the broker
  is shown by a third receiver, a socket that only counts the ends of frames: its rate is the broker's. CPU time per
  message, of the receiving process alone, is beside it: where the machine is shared, it swings less.
* **Lateness.** With N tasks waiting, results are published one by one at a steady pace. The value of each is the time
  before it is signed, and ``deliver`` compares it with the same clock. The figures are medians of the rounds'.
* **Memory** of the hub for one waiting task, its keys and the two bound methods that a trigger hands over included, the
  trigger itself not: by tracemalloc, and by resident size.
* **Connections and threads** while N tasks wait, as the kernel counts them.
* The same for iDDS's own AsyncResult, where its virtualenv is (``make idds``): one object for each waiting task.

The exit code is 0 if everything was measured, whether or not the targets were met.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

if __name__ == "__main__":
    sys.path.pop(0)  # this folder, where airflow.py would be taken for Airflow
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.hub_turns import Bench, Lateness, Memory, Turn, Waiting, Way, idds_waiting, running_bench
from benchmarks.report import Target, finish, print_table, spread
from deploy.idds.install import default_venv, python_of
from tests.stack.activemq import missing

COMPARED: Final = 10_000
"""Waiting tasks at which hub and bare loop are compared; the largest number of keys where this is not among them."""

TARGETS: Final = (
    Target(key="rate_vs_bare", limit=0.7, at_least=True),
    Target(key="rate_50000_vs_100", limit=0.85, at_least=True),
    Target(key="p99_ms", limit=50),
    Target(key="bytes_per_key", limit=2048),
    Target(key="connections", limit=1),
)


def take_turns(bench: Bench, ways: Sequence[Way], rounds: int) -> dict[Way, list[Turn]]:
    """Return the turns of each way; every other round goes backwards, so that nobody is always after the same one."""
    for way in ways:
        bench.turn(way)  # the first one of each is slow: Java compiles, Python imports
    turns: dict[Way, list[Turn]] = {way: [] for way in ways}
    for number in range(rounds):
        for way in ways if number % 2 == 0 else reversed(ways):
            turns[way].append(bench.turn(way))
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return turns


def print_rates(turns: dict[Way, list[Turn]], bare: Way, messages: int) -> None:
    """Print the rates and the CPU time of each way."""
    columns = (f"receiving {messages:,} messages: median (min-max)", "messages/s", "CPU us/message", "vs bare")
    rows = [
        (
            way,
            spread([turn.rate for turn in of], digits=0),
            spread([turn.cpu * 1e6 for turn in of], digits=1),
            f"{median_rate(of) / median_rate(turns[bare]):.2f}",
        )
        for way, of in turns.items()
    ]
    print_table(columns, rows)


def print_lateness(lateness: Sequence[Lateness], keys: int) -> None:
    """Print the rounds at a steady pace."""
    columns = (f"publishing to delivery, {keys:,} waiting: median (min-max)", "")
    rows = [
        ("published, messages/s", spread([each.pace for each in lateness], digits=0)),
        ("the publisher's longest delay, ms", spread([each.behind * 1000 for each in lateness])),
        ("p50, ms", spread([each.p50 * 1000 for each in lateness])),
        ("p99, ms", spread([each.p99 * 1000 for each in lateness])),
        ("CPU of the receiver, us/message", spread([each.cpu * 1e6 for each in lateness], digits=1)),
    ]
    print_table(columns, rows)


def print_waiting(ours: Waiting, memory: Memory, theirs: Waiting | None) -> None:
    """Print what waiting takes."""
    rows = [
        ("tasks", f"{ours.tasks:,}", theirs and theirs.tasks),
        ("connections", ours.sockets, theirs and theirs.sockets),
        ("threads", ours.threads, theirs and theirs.threads),
        ("seconds to subscribe", f"{ours.seconds:.1f}", theirs and f"{theirs.seconds:.1f}"),
        ("bytes for one task, as Python counts", f"{memory.traced:,.0f}", None),
        ("bytes for one task, resident", f"{memory.resident:,.0f}", None),
    ]
    print_table(("waiting", "hub", "iDDS's AsyncResult"), [[cell or "-" for cell in row] for row in rows])


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--keys", type=int, nargs="+", default=[100, 1000, 10_000, 50_000], metavar="N",
        help="waiting tasks (default: 100 1000 10000 50000); without 10000 among them, rate_vs_bare is at the largest, "
        "and rate_50000_vs_100 always compares the largest with the smallest",
    )  # fmt: skip
    parser.add_argument(
        "--messages", type=int, default=20_000,
        help="messages of a turn, all of which the broker keeps in memory (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, help="turns of each kind (default: %(default)s)")
    parser.add_argument("--no-idds", action="store_true", help="do not measure iDDS's own AsyncResult (50 s)")
    return parser.parse_args()


def median_rate(turns: Sequence[Turn]) -> float:
    """Return the median of the rates in messages per second."""
    return statistics.median(turn.rate for turn in turns)


def median_cpu(turns: Sequence[Turn]) -> float:
    """Return the median of the CPU seconds per message."""
    return statistics.median(turn.cpu for turn in turns)


def rate_figures(turns: dict[Way, list[Turn]], bare: Way, hubs: Sequence[Way]) -> dict[str, Any]:
    """Return what the turns came to, for the last line.

    :param hubs: hubs by their number of waiting tasks; one of them has as many as ``bare`` has keys.
    """
    compared = next(way for way in hubs if way.keys == bare.keys)
    names = {way: f"hub_{way.keys}" if way in hubs else way.name for way in turns}
    return {
        "rate_vs_bare": round(median_rate(turns[compared]) / median_rate(turns[bare]), 3),
        "cpu_vs_bare": round(median_cpu(turns[compared]) / median_cpu(turns[bare]), 3),
        "rate_50000_vs_100": round(median_rate(turns[hubs[-1]]) / median_rate(turns[hubs[0]]), 3),
        "rates": {names[way]: round(median_rate(of)) for way, of in turns.items()},
        "rates_min_max": {names[way]: extremes([turn.rate for turn in of], 0) for way, of in turns.items()},
        "cpu_us_per_message": {names[way]: round(median_cpu(of) * 1e6, 2) for way, of in turns.items()},
        "published_rate": round(statistics.median(turn.published for of in turns.values() for turn in of)),
    }


def lateness_figures(lateness: Sequence[Lateness]) -> dict[str, Any]:
    """Return what the rounds at a steady pace came to, for the last line."""
    p99 = [each.p99 * 1000 for each in lateness]
    return {
        "p50_ms": round(statistics.median(each.p50 for each in lateness) * 1000, 3),
        "p99_ms": round(statistics.median(p99), 3),
        "p99_ms_min_max": extremes(p99, 3),
        "pace": round(statistics.median(each.pace for each in lateness), 1),
        "paced_cpu_us_per_message": round(statistics.median(each.cpu for each in lateness) * 1e6, 1),
    }


def idds_figures(theirs: Waiting) -> dict[str, float]:
    """Return what iDDS's own AsyncResult takes, for the last line."""
    return {
        "idds_tasks": theirs.tasks,
        "idds_connections": theirs.sockets,
        "idds_threads": theirs.threads,
        "idds_subscribe_s": round(theirs.seconds, 1),
    }


def extremes(figures: Sequence[float], digits: int) -> list[float]:
    """Return the least and the most of several figures."""
    return [round(min(figures), digits), round(max(figures), digits)]


def main() -> int:
    """Measure, print tables, and one JSON object."""
    asked = arguments()
    if (reason := missing()) is not None:
        print(reason, file=sys.stderr)
        return 1
    with_idds = not asked.no_idds and python_of(default_venv()).exists()
    keys = sorted(set(asked.keys))
    compared = COMPARED if COMPARED in keys else keys[-1]
    bare, hubs = Way("stomp", compared), [Way("hub", count) for count in keys]
    with running_bench(asked.messages) as bench:
        turns = take_turns(bench, [Way("socket", compared), bare, *hubs], asked.rounds)
        lateness = [bench.paced(compared) for _ in range(asked.rounds)]
        memory = bench.memory(compared)
        theirs = idds_waiting(bench) if with_idds else None
    ours = [bench.waiting[way] for way in hubs]
    print_rates(turns, bare, asked.messages)
    print()
    print_lateness(lateness, compared)
    print()
    print_waiting(ours[-1], memory, theirs)
    figures = {
        **rate_figures(turns, bare, hubs),
        **lateness_figures(lateness),
        "bytes_per_key": round(memory.traced),
        "resident_bytes_per_key": round(memory.resident),
        "connections": max(each.sockets for each in ours),
        "threads": max(each.threads for each in ours),
        **(idds_figures(theirs) if theirs else {}),
        "keys": keys,
        "compared_keys": compared,
        "messages": asked.messages,
        "rounds": asked.rounds,
    }
    finish(figures, TARGETS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
