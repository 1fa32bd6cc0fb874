"""Which faults a run makes, and when: drawn from a seed, before anything is started."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Action(StrEnum):
    """What is done to a process."""

    KILL = "kill"
    """SIGKILL, and a start after a pause."""
    STALL = "stall"
    """SIGSTOP, and SIGCONT after a while."""
    DISTURB = "disturb"
    """The proxy before PanDA answers wrongly for a while."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of fault.

    :param name: as it is counted and asked for.
    :param victim: the part that it hits; faults of one victim do not overlap.
    :param action: what is done.
    :param weight: how often, beside the other kinds.
    :param seconds: least and most time that the victim is down or stalled.
    :param rest: time in seconds that the victim gets after it, to be of use again.
    """

    name: str
    victim: str
    action: Action
    weight: float
    seconds: tuple[float, float]
    rest: float


def _kinds(*kinds: Kind) -> dict[str, Kind]:
    return {kind.name: kind for kind in kinds}


SECOND_TRIGGERER: Final = "triggerer-2"

_K, _S = Action.KILL, Action.STALL

KINDS: Final = _kinds(
    # A worker is a supervisor and, under it, the process of the task; a new try needs no start by the suite.
    Kind(name="worker-task-kill", victim="worker", action=_K, weight=6, seconds=(0, 0), rest=1),
    Kind(name="worker-supervisor-kill", victim="worker", action=_K, weight=4, seconds=(0, 0), rest=1),
    Kind(name="worker-task-stall", victim="worker", action=_S, weight=2, seconds=(1, 30), rest=1),
    Kind(name="worker-supervisor-stall", victim="worker", action=_S, weight=2, seconds=(1, 45), rest=1),
    Kind(name="triggerer-kill", victim="triggerer", action=_K, weight=3, seconds=(0, 10), rest=20),
    Kind(name="triggerer-stall", victim="triggerer", action=_S, weight=2, seconds=(1, 20), rest=8),
    Kind(name="runner-kill", victim="triggerer", action=_K, weight=3, seconds=(0, 5), rest=20),
    Kind(name="runner-stall", victim="triggerer", action=_S, weight=2, seconds=(1, 20), rest=8),
    Kind(name="scheduler-kill", victim="scheduler", action=_K, weight=2, seconds=(0, 10), rest=30),
    Kind(name="scheduler-stall", victim="scheduler", action=_S, weight=2, seconds=(1, 20), rest=10),
    Kind(name="broker-kill", victim="broker", action=_K, weight=4, seconds=(0, 15), rest=10),
    Kind(name="broker-stall", victim="broker", action=_S, weight=3, seconds=(1, 25), rest=10),
    Kind(name="panda-kill", victim="panda", action=_K, weight=4, seconds=(0, 15), rest=15),
    Kind(name="panda-stall", victim="panda", action=_S, weight=3, seconds=(1, 25), rest=10),
)
"""Every run has these."""

_D: Final = Action.DISTURB

PROXY_KINDS: Final = _kinds(
    Kind(name="panda-refuses", victim="way-to-panda", action=_D, weight=2, seconds=(1, 15), rest=3),
    Kind(name="panda-drops", victim="way-to-panda", action=_D, weight=2, seconds=(1, 10), rest=3),
    # What was asked for is done, and nobody hears of it.
    Kind(name="panda-loses-answers", victim="way-to-panda", action=_D, weight=4, seconds=(1, 10), rest=3),
    Kind(name="panda-503", victim="way-to-panda", action=_D, weight=2, seconds=(1, 15), rest=3),
    Kind(name="panda-late", victim="way-to-panda", action=_D, weight=2, seconds=(1, 15), rest=3),
)
"""What a proxy between Airflow and PanDA does (tests/stack/faulty_proxy.py)."""

FURTHER_KINDS: Final = _kinds(
    Kind(name="api-server-kill", victim="api-server", action=_K, weight=1, seconds=(0, 3), rest=30),
    Kind(name="api-server-stall", victim="api-server", action=_S, weight=1, seconds=(1, 8), rest=20),
    Kind(name="dag-processor-kill", victim="dag-processor", action=_K, weight=1, seconds=(0, 10), rest=20),
    # Its triggers are taken over by the other one, and when it wakes, it finds them gone.
    Kind(name="second-triggerer-stall", victim=SECOND_TRIGGERER, action=_S, weight=3, seconds=(5, 40), rest=10),
    Kind(name="second-triggerer-kill", victim=SECOND_TRIGGERER, action=_K, weight=2, seconds=(0, 20), rest=20),
    Kind(name="dag-processor-stall", victim="dag-processor", action=_S, weight=1, seconds=(1, 15), rest=20),
)
"""Airflow's other processes, and a second triggerer: what a long run hits as well."""

IDDS_KINDS: Final = _kinds(
    Kind(name="idds-rest-kill", victim="idds-rest", action=_K, weight=3, seconds=(0, 10), rest=20),
    Kind(name="idds-rest-stall", victim="idds-rest", action=_S, weight=2, seconds=(1, 20), rest=10),
    Kind(name="idds-agents-kill", victim="idds-agents", action=_K, weight=3, seconds=(0, 10), rest=30),
    Kind(name="idds-agents-stall", victim="idds-agents", action=_S, weight=2, seconds=(1, 20), rest=10),
)
"""Where tasks go through iDDS."""

ALL_KINDS: Final = {**KINDS, **PROXY_KINDS, **FURTHER_KINDS, **IDDS_KINDS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault of a plan.

    :param at: time from the start of the plan, in seconds.
    :param kind: what happens.
    :param seconds: how long the victim is down or stalled.
    :param draw: which of several processes it is, as a fraction of them (from 0, below 1).
    """

    at: float
    kind: Kind
    seconds: float
    draw: float


def make_plan(seed: int, *, seconds: float, gap: float, kinds: Sequence[Kind]) -> list[Fault]:
    """Return the faults of a run, by time; the same arguments give the same faults.

    Each kind comes once in random order before any comes again, if there is the time. No two faults of one victim
    overlap, and it has its rest between them.

    :param seed: what everything is drawn from.
    :param seconds: length of the run; no fault begins after it.
    :param gap: mean time between the beginnings of two faults.
    :param kinds: what may happen.
    """
    drawn = random.Random(seed)
    owed = list(kinds)
    drawn.shuffle(owed)
    free: dict[str, float] = {}
    faults: list[Fault] = []
    at = 0.0
    while True:
        at += gap * drawn.uniform(0.5, 1.5)
        if at > seconds:
            return faults
        ready = [kind for kind in kinds if free.get(kind.victim, 0.0) <= at]
        if not ready:
            continue
        kind = _next(drawn, ready, owed)
        least, most = kind.seconds
        # Short ones are more frequent than long ones: what is over in a moment meets other code than what is not.
        lasts = least + (most - least) * drawn.random() ** 2
        faults.append(Fault(at=round(at, 2), kind=kind, seconds=round(lasts, 2), draw=drawn.random()))
        free[kind.victim] = at + lasts + kind.rest


def _next(drawn: random.Random, ready: Collection[Kind], owed: list[Kind]) -> Kind:
    for kind in owed:
        if kind in ready:
            owed.remove(kind)
            return kind
    (chosen,) = drawn.choices(list(ready), weights=[kind.weight for kind in ready])
    return chosen
