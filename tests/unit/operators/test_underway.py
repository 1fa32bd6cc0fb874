"""A worker that Airflow ends during its submission: what the signal handler does, and what it leaves to execute."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException

from airflow_provider_panda.exceptions import GridUnreachableError
from airflow_provider_panda.operators.underway import Underway
from airflow_provider_panda.operators.way import Submission

TAKEN = Submission(task_name="n", task_id=7)


class Grid:
    """What a submission is looked for and killed by."""

    def __init__(self) -> None:
        self.listed: list[Submission | Exception | None] = [None]
        self.killed: list[Submission] = []
        self.told: list[Submission | None] = []
        self.looks = 0
        self.away: Exception | None = None

    def find(self) -> Submission | None:
        self.looks += 1
        found = self.listed.pop(0) if len(self.listed) > 1 else self.listed[0]
        if isinstance(found, Exception):
            raise found
        return found

    def kill(self, submission: Submission) -> None:
        if self.away is not None:
            raise self.away
        self.killed.append(submission)

    def underway(self, **options: Any) -> Underway:
        return Underway("af-key", find=self.find, kill=self.kill, tell=self.told.append, **options)


@pytest.fixture
def grid() -> Grid:
    return Grid()


def test_nobody_ends_it(grid: Grid) -> None:
    underway = grid.underway()
    underway.sending()
    underway.taken(TAKEN)
    underway.go_on()
    assert (grid.looks, grid.killed, grid.told) == (0, [], [])


def test_ended_before_the_submission_it_submits_nothing(grid: Grid) -> None:
    underway = grid.underway()
    underway.end()
    with pytest.raises(AirflowException, match="af-key: Airflow ended this worker"):
        underway.sending()
    assert (grid.looks, grid.killed, grid.told) == (0, [], [None])


def test_ended_before_there_was_anything_to_tell_it_submits_nothing(grid: Grid) -> None:
    underway = grid.underway()
    underway.give_up()
    with pytest.raises(AirflowException):
        underway.sending()
    assert (grid.looks, grid.told) == (0, [None])


def test_ended_with_an_id_it_is_killed_once(grid: Grid) -> None:
    underway = grid.underway()
    underway.sending()
    underway.taken(TAKEN)
    underway.end()
    assert grid.killed == [TAKEN]
    with pytest.raises(AirflowException):
        underway.go_on()
    assert (grid.looks, grid.killed, grid.told) == (0, [TAKEN], [TAKEN])


def test_ended_before_the_reply_it_is_found_by_its_name(grid: Grid) -> None:
    grid.listed = [None, TAKEN]
    underway = grid.underway(patience=30)
    underway.sending()
    underway.end()
    assert (grid.looks, grid.killed) == (2, [TAKEN])


def test_what_is_not_listed_in_time_is_killed_when_the_reply_comes(grid: Grid) -> None:
    underway = grid.underway(patience=0.01)
    underway.sending()
    underway.end()
    with pytest.raises(AirflowException):
        underway.taken(TAKEN)
    assert grid.killed == [TAKEN]


def test_a_dead_panda_is_told_with_what_to_do(grid: Grid, caplog: pytest.LogCaptureFixture) -> None:
    grid.listed, grid.away = [GridUnreachableError("away")], GridUnreachableError("still away")
    underway = grid.underway()
    with caplog.at_level(logging.WARNING):
        underway.sending()
        underway.end()
        with pytest.raises(AirflowException):
            underway.taken(TAKEN)
    assert "could not be looked for: away. `airflow panda reap` kills it" in caplog.text
    assert "PanDA task 7 could not be killed: still away. A further try or `airflow panda reap` does" in caplog.text


def test_the_handler_comes_back_from_a_panda_that_does_not_answer(grid: Grid) -> None:
    stalled, looking = threading.Event(), threading.Event()

    def find() -> None:
        looking.set()
        stalled.wait(60)

    grid.find = find  # type: ignore[method-assign]
    underway = grid.underway(patience=0.05)
    underway.sending()
    underway.end()
    assert looking.is_set()
    assert not stalled.is_set()
    stalled.set()
