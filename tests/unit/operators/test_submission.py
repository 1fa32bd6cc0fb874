"""How a submission begins: what of an earlier try is taken up or ended, and what later tries are told."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_panda.exceptions import GridUnreachableError
from airflow_provider_panda.operators import earlier, submission
from airflow_provider_panda.operators.earlier import STORE_KEY, UNENDED_KEPT, Left, Stage
from airflow_provider_panda.operators.submission import Begun, Draft, Reach
from airflow_provider_panda.operators.way import Found, Submission
from tests.unit.operators.scene import Store

OWN, KEY = "afabcdefghijklmnopqr", "afabcd00000000000000"


def note(key: str, **fields: Any) -> Left:
    given = {"by": key, "digest": "same", "server": "https://panda", "at": 1.0, **fields}
    return Left(key=key, name=f"n-{key}", kind="airflow-abcd", through_idds=False, **given)


def running(task_id: int, status: str = "running") -> Found:
    return Found(submission=Submission(task_name="n", task_id=task_id), status=status)


class Desk:
    """One try with a store, and a grid that lists tasks by name."""

    def __init__(self, left: Left | None = None) -> None:
        self.store = Store({} if left is None else {STORE_KEY: left.to_json()})
        self.messages: list[str] = []
        self.listed: dict[str, Found] = {}
        self.appears: Found | None = None
        self.ended: list[int | None] = []
        self.looked_for: list[str] = []
        self.drafted: list[str] = []
        self.pauses: list[float] = []
        self.away = False
        self.digest, self.server = "same", "https://panda"

    def find(self, left: Left) -> Found | None:
        self.looked_for.append(left.key)
        if self.away:
            raise GridUnreachableError("away")
        found = self.listed.get(left.name)
        if found is None and self.appears is not None:
            self.listed[left.name] = self.appears
        return found

    def end(self, ended: Submission) -> bool:
        if self.away:
            raise GridUnreachableError("away")
        self.ended.append(ended.task_id)
        return True

    def draft(self, key: str) -> Draft[str]:
        self.drafted.append(key)
        return Draft(note=note(key, digest=self.digest, server=self.server), content=f"for {key}")

    @property
    def context(self) -> Any:
        desk = self

        class Counting(Store):
            def get(self, name: str, default: Any = None) -> Any:
                desk.messages.append("get")
                return desk.store.get(name, default)

            def set(self, name: str, value: Any) -> None:
                desk.messages.append("set")
                desk.store.set(name, value)

        return {"task_state_store": Counting()}

    def begin(self) -> Begun[str]:
        reach = Reach(find=self.find, standing=lambda status: earlier.standing_of(status, ("done",)), end=self.end)
        return submission.begin(self.context, own_key=OWN, draft=self.draft, reach=reach, pause=self.pauses.append)

    @property
    def left(self) -> Left:
        return Left.from_json(self.store[STORE_KEY])


def test_a_first_try_costs_one_read_and_one_write() -> None:
    desk = Desk()
    begun = desk.begin()
    assert (begun.note.key, begun.content, begun.known) == (OWN, f"for {OWN}", None)
    assert (desk.messages, desk.looked_for, desk.drafted) == (["get", "set"], [], [OWN])
    assert (desk.left.key, desk.left.by, desk.left.stage) == (OWN, OWN, Stage.SUBMITTING)
    assert desk.left.at == pytest.approx(time.time(), abs=60)


def test_the_deferral_costs_one_more_and_leaves_the_ids() -> None:
    desk = Desk()
    begun = desk.begin()
    submission.deferring(desk.context, begun.note, Submission(task_name="n", task_id=7))
    assert desk.messages == ["get", "set", "set"]
    assert (desk.left.task_id, desk.left.stage) == (7, Stage.DEFERRING)


def test_executed_again_it_looks_for_nothing_and_ends_nothing() -> None:
    desk = Desk(note(OWN, stage=Stage.DEFERRING, task_id=7))
    assert desk.begin().note.key == OWN
    assert (desk.looked_for, desk.ended) == ([], [])


@pytest.mark.parametrize("status", ["running", "done", "pending", "prepared", ""])
def test_what_was_never_waited_for_is_taken_up(status: str) -> None:
    desk = Desk(note(KEY))
    desk.listed[f"n-{KEY}"] = running(7, status)
    begun = desk.begin()
    assert (begun.note.key, begun.content) == (KEY, f"for {KEY}")
    assert begun.known == Submission(task_name="n", task_id=7)
    assert (desk.left.key, desk.left.by, desk.left.task_id) == (KEY, OWN, 7)
    assert (desk.ended, desk.drafted) == ([], [KEY])


def test_what_panda_does_not_list_is_submitted_under_the_same_key() -> None:
    desk = Desk(note(KEY))
    begun = desk.begin()
    assert (begun.note.key, begun.known) == (KEY, None)
    assert (desk.pauses, desk.ended) == ([], [])


def test_a_further_try_takes_up_what_was_taken_up() -> None:
    desk = Desk(note(KEY, by="afabcd11111111111111"))
    assert desk.begin().note.key == KEY
    assert desk.left.by == OWN


def test_a_second_worker_of_a_try_that_took_something_up_goes_on_with_it() -> None:
    desk = Desk(note(KEY, by=OWN, stage=Stage.DEFERRING, task_id=7))
    desk.listed[f"n-{KEY}"] = running(7)
    assert desk.begin().known == Submission(task_name="n", task_id=7)
    assert desk.ended == []


@pytest.mark.parametrize("status", ["failed", "broken", "aborted", "aborting", "toabort", "tobroken", "finished"])
def test_what_is_over_is_not_taken_up(status: str) -> None:
    desk = Desk(note(KEY))
    desk.listed[f"n-{KEY}"] = running(7, status)
    begun = desk.begin()
    assert (begun.note.key, begun.known, desk.ended) == (OWN, None, [7])
    assert desk.drafted == [KEY, OWN]


def test_another_digest_ends_the_old_task() -> None:
    desk = Desk(note(KEY))
    desk.digest, desk.listed[f"n-{KEY}"] = "edited", running(7)
    assert desk.begin().note.key == OWN
    assert desk.ended == [7]


def test_told_to_resubmit_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__PANDA__ON_RETRY", "resubmit")
    desk = Desk(note(KEY))
    desk.listed[f"n-{KEY}"] = running(7)
    assert desk.begin().note.key == OWN
    assert (desk.ended, desk.drafted) == ([7], [OWN])


@pytest.mark.parametrize("stage", [Stage.DEFERRING, Stage.ENDED])
def test_what_was_waited_for_is_ended_by_its_ids(stage: Stage) -> None:
    desk = Desk(note(KEY, stage=stage, task_id=7))
    assert desk.begin().note.key == OWN
    assert (desk.ended, desk.looked_for, desk.drafted) == ([7], [], [OWN])


def test_on_another_server_ids_are_other_tasks() -> None:
    """The name is looked for there instead, which is nobody else's."""
    desk = Desk(note(KEY, stage=Stage.DEFERRING, task_id=7))
    desk.server = "https://another"
    assert desk.begin().note.key == OWN
    assert (desk.ended, desk.looked_for) == ([], [KEY])


def test_a_task_that_is_to_be_ended_is_waited_for_until_panda_lists_it() -> None:
    desk = Desk(note(KEY, at=time.time(), stage=Stage.ENDED))
    desk.appears = running(7)
    desk.begin()
    assert (len(desk.looked_for), len(desk.pauses), desk.ended) == (2, 1, [7])


def test_one_that_panda_would_list_by_now_is_not_waited_for() -> None:
    desk = Desk(note(KEY, at=time.time() - 60, stage=Stage.ENDED))
    desk.begin()
    assert (len(desk.looked_for), desk.pauses, desk.ended) == (1, [], [])


def test_what_cannot_be_ended_is_told_and_tried_again_by_the_next_try(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(note(KEY, stage=Stage.DEFERRING, task_id=7))
    desk.away = True
    with caplog.at_level(logging.WARNING):
        assert desk.begin().note.key == OWN
    assert "PanDA task 7 of an earlier try was not killed: away. A further try or `airflow panda reap`" in caplog.text
    assert [each.task_id for each in desk.left.unended] == [7]
    desk.away = False
    desk.store[STORE_KEY] = replace(
        desk.left, key="afabcd2222", by="afabcd2222", stage=Stage.DEFERRING, task_id=8
    ).to_json()
    desk.begin()
    assert sorted(str(ended) for ended in desk.ended) == ["7", "8"]
    assert desk.left.unended == ()


def test_what_could_not_be_ended_is_kept_through_a_taking_up() -> None:
    old = note("afabcd2222", stage=Stage.DEFERRING, task_id=6)
    desk = Desk(note(KEY, unended=(old,)))
    desk.listed[f"n-{KEY}"] = running(7)
    assert desk.begin().note.key == KEY
    assert desk.ended == [6]


def test_not_more_is_kept_than_the_store_should_hold() -> None:
    many = tuple(note(f"afabcd{number}", stage=Stage.DEFERRING, task_id=number) for number in range(9))
    desk = Desk(note(KEY, stage=Stage.DEFERRING, task_id=10, unended=many))
    desk.away = True
    desk.begin()
    assert len(desk.left.unended) == UNENDED_KEPT
    assert desk.left.unended[-1].task_id == 10  # the newest


def test_a_panda_that_cannot_be_asked_leaves_all_as_it_was() -> None:
    """The try fails, and the next one finds what this one found."""
    desk = Desk(note(KEY))
    desk.away = True
    with pytest.raises(GridUnreachableError):
        desk.begin()
    assert desk.messages == ["get"]


def test_a_worker_that_was_ended_leaves_word() -> None:
    desk = Desk()
    begun = desk.begin()
    submission.ended(desk.context, begun.note, None)
    assert desk.left.stage is Stage.ENDED
    submission.ended(desk.context, begun.note, Submission(task_name="n", task_id=7))
    assert (desk.left.stage, desk.left.task_id) == (Stage.ENDED, 7)
