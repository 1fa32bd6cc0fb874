"""``make bench``: every benchmark, one after the other, and what they printed in ``benchmarks/RESULTS.md``.

Nothing else should run on the machine meanwhile. The exit code is 0 if every program measured what it was to measure,
whether or not the targets were met.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
RESULTS: Final = HERE / "RESULTS.md"
PATIENCE: Final = 900.0
"""Seconds after which a program is ended: something hangs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One benchmark.

    :param name: its file without ``.py``.
    :param question: what it answers.
    :param arguments: so that all together take less than 20 minutes on two cores.
    """

    name: str
    question: str
    arguments: tuple[str, ...] = ()


PROGRAMS: Final = (
    Program(name="parse", question="What does the package cost a DAG file?"),
    Program(name="hub", question="How many messages does one process take, for how many waiting tasks?"),
    Program(name="fanout", question="What does a task of many jobs cost, out and home?"),
    Program(name="triggerer", question="What do thousands of waiting functions cost a real triggerer?"),
    Program(name="roundtrip", question="Where does the time of one function go?"),
    Program(name="airflow", question="What does a DAG of 60 functions cost Airflow's workers?"),
    Program(name="hpo_makespan", question="How long does an optimisation take, on how many slots?"),
    Program(name="idds_overhead", question="How does iDDS's own client compare?", arguments=("--rounds", "3")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one program.

    :param program: the benchmark.
    :param code: its exit code.
    :param output: what it printed, without the last line where that is its JSON object.
    :param figures: that object; empty if there is none.
    :param seconds: how long it took.
    """

    program: Program
    code: int
    output: str
    figures: dict[str, Any]
    seconds: float

    @property
    def measured(self) -> bool:
        """Whether it came to its end."""
        return self.code == 0 and bool(self.figures)


def run(program: Program) -> Outcome:
    """Run a benchmark to its end, and print what it prints."""
    print(f"\n=== {program.name}: {program.question}", flush=True)
    command = [sys.executable, str(HERE / f"{program.name}.py"), *program.arguments]
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            output, _ = process.communicate(timeout=PATIENCE)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    print(output, end="", flush=True)
    return outcome_of(program, process.returncode, output, time.monotonic() - began)


def outcome_of(program: Program, code: int, output: str, seconds: float) -> Outcome:
    """Return what a program's output comes to: its last line is to be a JSON object."""
    text, _, last = output.rstrip("\n").rpartition("\n")
    try:
        figures = json.loads(last)
    except ValueError:
        figures = None
    if not isinstance(figures, dict):
        text, figures = output, {}
    return Outcome(program=program, code=code, output=text.rstrip(), figures=figures, seconds=seconds)


def target_rows(outcomes: Iterable[Outcome]) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield a row for each target: program, figure, measured, target, met or not."""
    for each in outcomes:
        for key, bound in each.figures.get("targets", {}).items():
            met = "no" if key in each.figures["targets_missed"] else "yes"
            yield each.program.name, f"`{key}`", f"{each.figures[key]:,.4g}", bound, met
        if not each.measured:
            yield each.program.name, "", f"failed with exit code {each.code}", "", "no"


def machine() -> str:
    """Return on what it was measured, in one line."""
    packages = ("apache-airflow", "stomp.py", "panda-client", "idds-client")
    told = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, {told}"


def page(outcomes: list[Outcome], when: datetime) -> str:
    """Return the text of RESULTS.md."""
    minutes = sum(each.seconds for each in outcomes) / 60
    lines = [
        "# What was measured",
        "",
        f"By `make bench` on {when:%Y-%m-%d}, {machine()}; {minutes:.0f} minutes in all.",
        "Every comparison is of one run. What the programs do is said by their `--help`.",
        "",
        "| program | figure | measured | target | met |",
        "|---|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in target_rows(outcomes)),
    ]
    for each in outcomes:
        command = " ".join(("python", f"benchmarks/{each.program.name}.py", *each.program.arguments))
        lines += [
            "",
            f"## {each.program.name}",
            f"{each.program.question} `{command}`, {each.seconds:.0f} s.",
            "",
            "```",
            each.output,
            json.dumps(each.figures),
            "```",
        ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run all benchmarks, or those that are named, and write down what came of it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = [program.name for program in PROGRAMS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)} (default: all)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to write (default: %(default)s)")
    given = parser.parse_args()
    if unknown := sorted(set(given.names) - set(names)):
        parser.error(f"unknown: {', '.join(unknown)}")
    outcomes = [run(program) for program in PROGRAMS if not given.names or program.name in given.names]
    given.results.write_text(page(outcomes, datetime.now(UTC)))
    print(f"\n{sum(each.seconds for each in outcomes) / 60:.1f} minutes; {given.results}")
    for row in target_rows(outcomes):
        print("  ".join(row))
    return int(not all(each.measured for each in outcomes))


if __name__ == "__main__":
    sys.exit(main())
