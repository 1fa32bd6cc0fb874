"""What state task instances are in: one call for all that are asked about in the same moment.

Marking a hundred tasks calls a hundred ``on_kill``, and each wants to know. A triggerer's supervisor serves calls one
at a time and does nothing else meanwhile (facts/airflow.md section 2), so those of one DAG share a call.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final
from weakref import WeakKeyDictionary

GATHER: Final = 0.2
"""Seconds in which further ones join a call; ``on_kill`` has one in all."""

ALONE: Final = 2
"""Up to this many are asked for alone: an answer for a mapped task tells all its instances, thousands perhaps."""

NAMES_AT_ONCE: Final = 50
"""Names of runs and tasks in one call: they go into a URL, which has at most 64 KiB, and have 750 bytes at worst."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a task instance is, whichever try of it."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1

    @classmethod
    def of(cls, task_instance: Any) -> Place:
        """Return the place of a trigger's task instance."""
        ti = task_instance
        return cls(ti.dag_id, ti.run_id, ti.task_id, ti.map_index)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One call for the states of task instances of one DAG.

    :param dag_id: the DAG.
    :param run_ids: its runs.
    :param task_ids: its tasks.
    :param map_index: the one instance of the one task, or None: all of them.
    """

    dag_id: str
    run_ids: tuple[str, ...]
    task_ids: tuple[str, ...]
    map_index: int | None = None


def questions(places: Collection[Place]) -> Iterator[Question]:
    """Yield the calls that answer for these places, as few as can be told apart."""
    for dag_id, group in groupby(sorted(places), key=lambda place: place.dag_id):
        of_dag = list(group)
        names = {place.task_id for place in of_dag}
        shared = [place for place in of_dag if not _ambiguous(place.task_id, names)]
        alone = [place for place in of_dag if _ambiguous(place.task_id, names)]
        if len(shared) <= ALONE:
            alone, shared = of_dag, []
        for place in alone:
            yield Question(dag_id=dag_id, run_ids=(place.run_id,), task_ids=(place.task_id,), map_index=place.map_index)
        run_ids: dict[str, None] = {}
        task_ids: dict[str, None] = {}
        for place in shared:
            if len(run_ids.keys() | {place.run_id}) + len(task_ids.keys() | {place.task_id}) > NAMES_AT_ONCE:
                yield Question(dag_id=dag_id, run_ids=tuple(run_ids), task_ids=tuple(task_ids))
                run_ids, task_ids = {}, {}
            run_ids[place.run_id] = task_ids[place.task_id] = None
        if run_ids:
            yield Question(dag_id=dag_id, run_ids=tuple(run_ids), task_ids=tuple(task_ids))


def _ambiguous(task_id: str, names: Collection[str]) -> bool:
    """Whether an answer's name for this task may be that of an instance of a mapped one: of ``a``, ``a_1`` is one."""
    numbered = re.fullmatch(r"(.+)_\d+", task_id)
    return numbered is not None and numbered[1] in names


def states_in(places: Collection[Place], states: Mapping[str, Mapping[str, Any]]) -> dict[Place, str]:
    """Return the states of places that an answer tells: ``{run: {task or task_index: state}}``.

    A task instance that was deleted is not in it, nor is one without a state.
    """
    found = {}
    for place in places:
        name = place.task_id if place.map_index < 0 else f"{place.task_id}_{place.map_index}"
        state = states.get(place.run_id, {}).get(name)
        if state is not None:
            found[place] = str(getattr(state, "value", state))
    return found


class _Gathering:
    """Places that are asked about together."""

    def __init__(self) -> None:
        self.places: set[Place] = set()
        self.answer: asyncio.Task[dict[Place, str]]


_gathering: WeakKeyDictionary[asyncio.AbstractEventLoop, _Gathering] = WeakKeyDictionary()


async def state_at(place: Place) -> str | None:
    """Return the state of a task instance, or None if it was deleted or has none.

    :raises Exception: Airflow could not be asked.
    """
    loop = asyncio.get_running_loop()
    gathering = _gathering.get(loop)
    if gathering is None:
        gathering = _gathering[loop] = _Gathering()
        gathering.answer = loop.create_task(_answer(gathering), name="task states")
    gathering.places.add(place)
    return (await asyncio.shield(gathering.answer)).get(place)


async def _answer(gathering: _Gathering) -> dict[Place, str]:
    from asgiref.sync import sync_to_async

    await asyncio.sleep(GATHER)
    del _gathering[asyncio.get_running_loop()]
    found: dict[Place, str] = {}
    for question in questions(gathering.places):
        # To the supervisor by a blocking socket: never on the loop.
        states = await sync_to_async(_ask)(question)
        asked = {place for place in gathering.places if _answers(question, place)}
        found.update(states_in(asked, states))
    return found


def _answers(question: Question, place: Place) -> bool:
    return (
        place.dag_id == question.dag_id
        and place.run_id in question.run_ids
        and place.task_id in question.task_ids
        and question.map_index in (None, place.map_index)
    )


def _ask(question: Question) -> Mapping[str, Mapping[str, Any]]:
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    return RuntimeTaskInstance.get_task_states(
        dag_id=question.dag_id,
        run_ids=list(question.run_ids),
        task_ids=list(question.task_ids),
        map_index=question.map_index,
    )
