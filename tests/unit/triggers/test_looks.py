"""Looks at task instances: as few calls as can be told apart, and one for all that ask in the same moment."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from airflow_provider_panda.triggers import looks
from airflow_provider_panda.triggers.looks import NAMES_AT_ONCE, Place, Question, questions, state_at, states_in


def mapped(count: int, dag_id: str = "dag") -> set[Place]:
    return {Place(dag_id, "run", "task", index) for index in range(count)}


def test_instances_of_one_dag_share_a_call() -> None:
    assert list(questions(mapped(100))) == [Question(dag_id="dag", run_ids=("run",), task_ids=("task",))]
    assert {question.dag_id for question in questions(mapped(5) | mapped(5, "other"))} == {"dag", "other"}


def test_few_are_asked_for_alone_since_their_task_may_have_thousands_more() -> None:
    assert [question.map_index for question in questions(mapped(2))] == [0, 1]


def test_many_names_are_split() -> None:
    places = {Place("dag", f"run{i:03}", "task") for i in range(120)}
    asked = list(questions(places))
    assert len(asked) == 3
    assert all(len(question.run_ids) + len(question.task_ids) <= NAMES_AT_ONCE for question in asked)
    assert sorted(run_id for question in asked for run_id in question.run_ids) == sorted(p.run_id for p in places)


def test_a_name_that_may_be_an_instance_of_another_is_asked_for_alone() -> None:
    places = {Place("dag", "run", "a", index) for index in range(5)} | {Place("dag", "run", "a_1")}
    assert [question.task_ids for question in questions(places)] == [("a_1",), ("a",)]


def test_states_are_read_by_task_and_index() -> None:
    plain, first, gone = Place("dag", "run", "plain"), Place("dag", "run", "m", 0), Place("dag", "run", "m", 9)
    told = {"run": {"plain": "failed", "m_0": "deferred", "m_1": "running", "bare": None}}
    assert states_in([plain, first, gone, Place("dag", "run", "bare")], told) == {plain: "failed", first: "deferred"}
    assert states_in([plain], {}) == {}


async def test_a_hundred_looks_are_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Question] = []

    def ask(question: Question) -> dict[str, dict[str, Any]]:
        asked.append(question)
        return {"run": {f"task_{index}": "deferred" if index % 2 else "failed" for index in range(100)}}

    monkeypatch.setattr(looks, "_ask", ask)
    monkeypatch.setattr(looks, "GATHER", 0.01)
    async with asyncio.timeout(30):
        states = await asyncio.gather(*(state_at(place) for place in sorted(mapped(100))))
        assert states == ["failed", "deferred"] * 50
        assert len(asked) == 1
        await state_at(Place("dag", "run", "task", 3))
    assert len(asked) == 2, "a later look is a new call"


async def test_an_error_is_everybodys_and_the_next_look_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = [RuntimeError("no API"), {"run": {"task_0": "failed"}}]

    def ask(question: Question) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(looks, "_ask", ask)
    monkeypatch.setattr(looks, "GATHER", 0.01)
    places = sorted(mapped(3))
    async with asyncio.timeout(30):
        outcomes = await asyncio.gather(*map(state_at, places), return_exceptions=True)
        assert [str(outcome) for outcome in outcomes] == ["no API"] * 3
        assert await state_at(places[0]) == "failed"
