"""Steps of a command: each finds out or does one thing and says so in one line; later ones need earlier ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from airflow_provider_panda.exceptions import PandaProviderError


class Verdict(Enum):
    """What came of a step."""

    OK = "ok"
    WARN = "warn"
    """It works, but hardly as meant."""
    WRONG = "wrong"
    SKIPPED = "skipped"
    """Not tried, or not to be found out from here."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a step says.

    :param verdict: what came of it.
    :param text: what was found; if it is wrong, what to do.
    """

    verdict: Verdict
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step.

    :param name: its name, a word or two.
    :param act: takes it; an error of ours means that it is wrong.
    :param needs: names of the steps without which it makes no sense.
    """

    name: str
    act: Callable[[], Told]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A step that was taken, or skipped.

    :param step: its name.
    :param verdict: what came of it.
    :param text: what was found, or why it was skipped.
    """

    step: str
    verdict: Verdict
    text: str

    @property
    def line(self) -> str:
        """The finding as one line."""
        return f"{self.verdict.value:<8}{self.step}: {' '.join(self.text.split())}"


def ok(text: str) -> Told:
    """Return that a step went well."""
    return Told(Verdict.OK, text)


def warn(text: str) -> Told:
    """Return that a step went well, but hardly as meant."""
    return Told(Verdict.WARN, text)


def wrong(text: str) -> Told:
    """Return that a step failed."""
    return Told(Verdict.WRONG, text)


def skipped(text: str) -> Told:
    """Return that a step was not taken."""
    return Told(Verdict.SKIPPED, text)


def blocked_by(step: Step, hopeless: Collection[str]) -> str | None:
    """Return the first step that a step needs and that failed, or could not be taken for such a reason."""
    return next((need for need in step.needs if need in hopeless), None)


def take(steps: Sequence[Step]) -> Iterator[Finding]:
    """Take steps in order, and yield what came of each at once."""
    hopeless: dict[str, str] = {}
    for step in steps:
        blocker = blocked_by(step, hopeless)
        if blocker is not None:
            hopeless[step.name] = hopeless[blocker]
            told = skipped(f"because '{hopeless[blocker]}' is wrong")
        else:
            try:
                told = step.act()
            except PandaProviderError as error:
                told = wrong(str(error))
            if told.verdict is Verdict.WRONG:
                hopeless[step.name] = step.name
        yield Finding(step=step.name, verdict=told.verdict, text=told.text)


def report(conn_id: str, findings: Iterator[Finding], *, as_json: bool, show: Callable[[str], object]) -> int:
    """Show findings as they come, and return the exit code: 1 if anything is wrong.

    :param conn_id: connection that they are about.
    :param as_json: whether to show them all as one JSON object in the end.
    :param show: takes a line.
    """
    found: list[Finding] = []
    for finding in findings:
        found.append(finding)
        if not as_json:
            show(finding.line)
    good = all(finding.verdict is not Verdict.WRONG for finding in found)
    if as_json:
        steps = [{"step": f.step, "verdict": f.verdict.value, "text": f.text} for f in found]
        show(json.dumps({"connection": conn_id, "ok": good, "steps": steps}, indent=2))
    return 0 if good else 1
