"""One request per DAG run, one transform per try: whatever starts together, is lost on the way, or is cleared."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from airflow_provider_panda.exceptions import (
    GridAuthError,
    GridRefusedError,
    GridServerError,
    GridUnreachableError,
    TaskNotFoundError,
)
from airflow_provider_panda.grid.answers import KillOutcome
from airflow_provider_panda.grid.idds import runs
from airflow_provider_panda.grid.idds.answers import RequestStatus, TransformStatus
from airflow_provider_panda.grid.idds.runs import DagRun, IddsGrid, RunClosing, Submitted, generation_of, without_reason
from airflow_provider_panda.grid.names import task_name
from airflow_provider_panda.grid.retry import PATIENT
from airflow_provider_panda.grid.task import TaskSpec, task_key
from tests.unit.grid.idds.memory import MemoryIdds, panda

SECRET = "the instance secret"
RUN = DagRun(instance="abcd", dag_id="dag", run_id="manual__2026-11-22T00:00:00+00:00")


def key(number: int) -> str:
    return task_key("abcd", f"ti {number}")


def spec(number: int = 0, **fields: Any) -> TaskSpec:
    given = {
        "key": key(number),
        "name": task_name("dag", f"t{number}", RUN.run_id, key(number)),
        "n_jobs": 2,
        "command": "python3 x",
        "archive_name": "sources.a.tar.gz",
        **fields,
    }
    return TaskSpec(**given)


class Bench:
    """A grid on an iDDS in memory, without real pauses."""

    def __init__(self, on_pause: Callable[[float], object] = lambda _: None) -> None:
        self.idds = MemoryIdds()
        self.kills: list[int] = []
        self.pauses: list[float] = []
        self.on_pause = on_pause
        self.grid = IddsGrid(
            self.idds, panda(self.kills), secret=SECRET, pause=self._pause, draw=lambda: 1.0  # type: ignore[arg-type]
        )  # fmt: skip

    def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.on_pause(seconds)

    def status(self, request_id: int) -> RequestStatus:
        return self.idds.requests[request_id]


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- which request --------------------------------------------------------------------------------------------


def test_the_first_task_makes_the_request_and_the_next_ones_find_it(bench: Bench) -> None:
    assert [bench.grid.request_for(RUN, key(number)) for number in range(3)] == [1, 1, 1]
    assert bench.idds.calls.count("add_request") == 1
    assert bench.idds.closed == []
    name = bench.status(1).name
    assert name.startswith("airflow-dag-manual__2026")
    assert name.endswith(key(0))
    assert RUN.mark in name


def test_a_young_request_is_looked_at_twice_and_one_with_works_once(bench: Bench) -> None:
    request_id = bench.grid.request_for(RUN, key(0))
    bench.pauses.clear()
    bench.grid.request_for(RUN, key(1))
    assert len(bench.pauses) == 1
    assert bench.pauses[0] >= runs.SETTLING
    bench.grid.submit(spec(), RUN, request_id)
    bench.pauses.clear()
    assert bench.grid.request_for(RUN, key(2)) == request_id
    assert bench.pauses == []


def test_twenty_tasks_that_start_together_agree() -> None:
    """All of them see no request at first, so each makes one."""
    idds = MemoryIdds()
    together, looked = threading.Barrier(20), set()

    def pause(seconds: float) -> None:
        thread = threading.get_ident()
        if thread not in looked:  # after its first look, which found nothing
            looked.add(thread)
            together.wait(60)

    grid = IddsGrid(idds, panda(), secret=SECRET, pause=pause)  # type: ignore[arg-type]
    found: list[int] = []
    problems: list[BaseException] = []

    def task(number: int) -> None:
        try:
            found.append(grid.submit(spec(number), RUN, grid.request_for(RUN, key(number))).request_id)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=task, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []
    assert len(found) == 20
    (used,) = set(found)
    assert len(idds.requests[used].transforms) == 20
    others = set(idds.requests) - {used}
    assert set(idds.closed) == others
    assert all(idds.requests[other].transforms == () for other in others)


def other_request(bench: Bench, nonce: str = "other") -> int:
    """Another task makes a request."""
    from airflow_provider_panda.grid.idds.work import Site, request_properties

    site = Site(panda_url="http://p", cache_url="http://p", vo="wlcg")
    return bench.idds.add_request(request_properties(RUN.request(SECRET, nonce), site))


def test_a_lower_id_that_appears_while_it_settles_wins() -> None:
    def reveal(seconds: float) -> None:
        if bench.idds.calls.count("add_request") == 2:  # ours is there as well
            bench.idds.reveal()

    bench = Bench(reveal)
    bench.idds.hide_next = True
    assert other_request(bench) == 1
    assert bench.grid.request_for(RUN, key(0)) == 1
    assert bench.idds.closed == [2]


def test_a_request_with_works_wins_over_a_lower_one_that_came_late() -> None:
    bench = Bench()
    bench.idds.hide_next = True
    assert other_request(bench) == 1
    used = bench.grid.request_for(RUN, key(0))
    assert used == 2
    bench.grid.submit(spec(), RUN, used)
    bench.idds.reveal()
    assert bench.grid.request_for(RUN, key(1)) == used


def test_one_that_appears_before_ours_is_made_makes_ours_needless() -> None:
    def appear(seconds: float) -> None:
        if not bench.idds.requests:
            other_request(bench)

    bench = Bench(appear)  # within the pause before a request is made
    assert bench.grid.request_for(RUN, key(0)) == 1
    assert bench.idds.calls.count("add_request") == 1


def test_a_lost_reply_makes_no_second_request(bench: Bench) -> None:
    bench.idds.lose("add_request")
    assert bench.grid.request_for(RUN, key(0)) == 1
    assert list(bench.idds.requests) == [1]
    assert bench.idds.calls.count("add_request") == 1


def test_a_call_that_never_arrived_is_made_again(bench: Bench) -> None:
    for call in ("request_ids", "add_request", "request", "add_transform"):
        bench.idds.lose(call, executed=False, error=GridServerError("502", status=502))
    request_id = bench.grid.request_for(RUN, key(0))
    assert bench.grid.submit(spec(), RUN, request_id).transform_id == 101
    assert list(bench.idds.requests) == [1]


@pytest.mark.parametrize("error", [GridUnreachableError("lost"), GridRefusedError("not now")])
def test_a_request_that_lost_and_cannot_be_closed_harms_nobody(error: Exception) -> None:
    def reveal(seconds: float) -> None:
        if bench.idds.calls.count("add_request") == 2:
            bench.idds.reveal()

    bench = Bench(reveal)
    bench.idds.hide_next = True
    other_request(bench)
    bench.idds.lose("close_request", executed=False, error=error)
    assert bench.grid.request_for(RUN, key(0)) == 1
    assert bench.idds.closed == []
    assert bench.grid.close_run(RUN).closed == (1, 2)


def test_a_request_that_lost_is_left_to_those_who_use_it() -> None:
    def both_are_used(seconds: float) -> None:
        if bench.idds.calls.count("add_request") == 2:
            bench.idds.reveal()
            for request_id in (1, 2):
                bench.grid.submit(spec(request_id), RUN, request_id)

    bench = Bench(both_are_used)
    bench.idds.hide_next = True
    other_request(bench)
    assert bench.grid.request_for(RUN, key(0)) == 1
    assert bench.idds.closed == []  # iDDS would abort its works


def test_refusals_are_not_tried_again(bench: Bench) -> None:
    bench.idds.lose("add_request", executed=False, error=GridAuthError("who are you"))
    with pytest.raises(GridAuthError):
        bench.grid.request_for(RUN, key(0))
    assert bench.idds.calls.count("add_request") == 1


def test_an_idds_that_is_away_is_told_after_some_attempts(bench: Bench) -> None:
    for _ in range(PATIENT.attempts):
        bench.idds.lose("request_ids", executed=False)
    with pytest.raises(GridUnreachableError):
        bench.grid.request_for(RUN, key(0))
    assert bench.idds.calls == ["request_ids"] * PATIENT.attempts


def test_a_request_that_is_not_listed_is_told(bench: Bench) -> None:
    bench.idds.hide_next = True
    with pytest.raises(GridRefusedError, match=r"made request 1 .* does not list it as open"):
        bench.grid.request_for(RUN, key(0))


@pytest.mark.parametrize("over", [{"status": "Finished"}, {"substatus": "ToClose"}, {"status": "Cancelling"}])
def test_a_closed_request_takes_nothing_more_and_a_new_one_is_made(bench: Bench, over: dict[str, str]) -> None:
    first = bench.grid.request_for(RUN, key(0))
    bench.idds.move(first, **over)
    assert bench.grid.request_for(RUN, key(1)) == first + 1


def test_generations_and_runs_have_requests_of_their_own(bench: Bench) -> None:
    cleared = dataclasses.replace(RUN, generation=1)
    other = dataclasses.replace(RUN, run_id="manual__2026-11-22T00:00:00-00:00")  # differs where names do not
    mapped = dataclasses.replace(RUN, dag_id="dag2")
    elsewhere = dataclasses.replace(RUN, instance="wxyz")
    made = [bench.grid.request_for(run, key(0)) for run in (RUN, cleared, other, mapped, elsewhere)]
    assert made == [1, 2, 3, 4, 5]
    assert [bench.grid.request_for(run, key(9)) for run in (RUN, cleared, other, mapped, elsewhere)] == made
    assert set(bench.grid.requests_of(RUN).values()) == {1}
    assert set(bench.grid.requests_of(cleared).values()) == {1, 2}


def test_names_that_only_the_pattern_matches_are_left_out(bench: Bench) -> None:
    bench.grid.request_for(RUN, key(0))
    strange = f"airflow-x-{RUN.mark}-gx-{key(3)}"
    bench.idds.requests[66] = RequestStatus(request_id=66, name=strange, status="New")
    assert set(bench.grid.requests_of(RUN).values()) == {1}


def test_the_token_is_the_runs_and_the_instances_alone() -> None:
    token = RUN.request(SECRET).token
    assert token == RUN.request(SECRET, "nonce").token
    different = [
        RUN.request("another secret").token,
        dataclasses.replace(RUN, generation=1).request(SECRET).token,
        dataclasses.replace(RUN, run_id="r").request(SECRET).token,
        dataclasses.replace(RUN, instance="wxyz").request(SECRET).token,
    ]
    assert len({token, *different}) == 5
    assert SECRET not in token
    assert len(token) == 32


# --- a task ---------------------------------------------------------------------------------------------------


def test_a_task_becomes_one_transform(bench: Bench) -> None:
    request_id = bench.grid.request_for(RUN, key(0))
    submitted = bench.grid.submit(spec(), RUN, request_id)
    name = spec().name
    assert submitted == Submitted(request_id=1, transform_id=101, task_name=f"{name}_1_101")
    assert bench.grid.submit(spec(), RUN, request_id) == submitted  # the same try once more
    assert bench.idds.calls.count("add_transform") == 1
    assert bench.grid.submit(spec(1), RUN, request_id).transform_id == 102


@pytest.mark.parametrize("late", [1, 2])
def test_calls_that_are_acted_on_late_leave_one_task(late: int, caplog: pytest.LogCaptureFixture) -> None:
    """A proxy held them until after they had been given up, and their task had been looked for."""
    bench = Bench()
    request_id = bench.grid.request_for(RUN, key(0))
    add = bench.idds.add_transform
    held: list[Any] = []

    def slow(request: int, properties: Any) -> int:
        if len(held) < late:
            held.append(properties)
            raise GridUnreachableError("no answer in time")
        made = [add(request, each) for each in (*held, properties)]
        for transform_id in made:
            bench.idds.move(request, transform_id, task_id=800 + transform_id)
        return made[-1]

    bench.idds.add_transform = slow  # type: ignore[method-assign]
    assert bench.grid.submit(spec(), RUN, request_id).transform_id == 101
    assert bench.kills == [902, 903][:late]
    assert caplog.text.count("made its task twice") == late


def test_a_lost_reply_makes_no_second_transform(bench: Bench) -> None:
    request_id = bench.grid.request_for(RUN, key(0))
    bench.idds.lose("add_transform")
    assert bench.grid.submit(spec(), RUN, request_id).transform_id == 101
    assert len(bench.status(request_id).transforms) == 1
    assert bench.idds.calls.count("add_transform") == 1


def test_a_refused_work_is_told_at_once(bench: Bench) -> None:
    request_id = bench.grid.request_for(RUN, key(0))
    with pytest.raises(GridRefusedError, match="token"):
        bench.grid.submit(spec(), dataclasses.replace(RUN, generation=1), request_id)
    assert bench.idds.calls.count("add_transform") == 1


def test_what_idds_is_told_of_site_and_owner(bench: Bench) -> None:
    bench.grid.submit(spec(), RUN, bench.grid.request_for(RUN, key(0)))
    text = json.dumps(bench.idds.properties)
    assert "https://panda:25443/server/panda" in text
    assert "https://cache:25444/cache/sources.a.tar.gz" in text
    assert "Grid User" in text
    assert "the id token" not in text
    assert SECRET not in text


def submitted(bench: Bench) -> Submitted:
    return bench.grid.submit(spec(), RUN, bench.grid.request_for(RUN, key(0)))


def test_the_id_of_a_task_once_there_is_one(bench: Bench) -> None:
    taken = submitted(bench)
    ids = taken.request_id, taken.transform_id
    assert bench.grid.task_id(*ids) is None
    bench.idds.move(*ids, status="Transforming", task_id=77)
    bench.idds.lose("request", executed=False)
    assert bench.grid.task_id(*ids) == 77
    bench.idds.move(*ids, status="Failed")
    assert bench.grid.task_id(*ids) == 77
    bench.idds.move(*ids, task_id=None)
    with pytest.raises(TaskNotFoundError, match="transform 101 is Failed without a PanDA task"):
        bench.grid.task_id(*ids)
    with pytest.raises(TaskNotFoundError, match="no transform 5 in request 1"):
        bench.grid.task_id(1, 5)
    with pytest.raises(TaskNotFoundError, match="no transform 101 in request 9"):
        bench.grid.task_id(9, 101)


def test_a_kill_waits_for_the_task_to_appear() -> None:
    def later(seconds: float) -> None:
        if len(bench.pauses) == 3:
            bench.idds.move(1, 101, task_id=77)

    bench = Bench()
    taken = submitted(bench)
    bench.pauses.clear()
    bench.on_pause = later
    assert bench.grid.kill(taken.request_id, taken.transform_id) is KillOutcome.REGISTERED
    assert bench.kills == [77]
    assert len(bench.pauses) == 3


def test_a_kill_of_what_never_came_to_panda(bench: Bench) -> None:
    taken = submitted(bench)
    bench.idds.move(1, 101, status="Failed")
    assert bench.grid.kill(taken.request_id, taken.transform_id) is None
    assert bench.grid.kill(taken.request_id, 5) is None
    assert bench.kills == []


def test_a_kill_does_not_wait_for_ever(bench: Bench) -> None:
    taken = submitted(bench)
    bench.pauses.clear()
    with pytest.raises(GridRefusedError, match="no PanDA task yet"):
        bench.grid.kill(taken.request_id, taken.transform_id)
    assert len(bench.pauses) == runs.APPEARANCE.attempts - 1
    assert 60 < sum(bench.pauses) < 300  # iDDS takes up to 18 s to submit


# --- the end of a run -----------------------------------------------------------------------------------------


def test_a_run_is_closed_once_its_works_have_ended(bench: Bench) -> None:
    taken = submitted(bench)
    assert bench.grid.close_run(RUN) == RunClosing(waiting=(1,))
    assert bench.idds.closed == []
    bench.idds.move(taken.request_id, taken.transform_id, status="Failed")
    assert bench.grid.close_run(RUN) == RunClosing(closed=(1,))
    assert bench.grid.close_run(RUN) == RunClosing()
    assert bench.idds.closed == [1]


def test_empty_requests_are_closed_and_those_of_later_generations_stay(bench: Bench) -> None:
    cleared = dataclasses.replace(RUN, generation=1)
    for run in (RUN, cleared):
        bench.grid.request_for(run, key(0))
    other_request(bench, nonce="left over")
    assert bench.grid.close_run(RUN) == RunClosing(closed=(1, 3))
    assert bench.status(2).takes_works
    assert bench.grid.close_run(cleared) == RunClosing(closed=(2,))


def test_a_later_generation_closes_what_the_earlier_left(bench: Bench) -> None:
    submitted(bench)
    cleared = dataclasses.replace(RUN, generation=2)
    assert bench.grid.request_for(cleared, key(5)) == 2
    assert bench.grid.close_run(cleared) == RunClosing(closed=(2,), waiting=(1,))
    bench.idds.move(1, 101, status="Finished")
    assert bench.grid.close_run(cleared) == RunClosing(closed=(1,))


def test_the_requests_of_an_instance_are_closed_as_far_as_their_works_have_ended(bench: Bench) -> None:
    taken = submitted(bench)
    bench.grid.request_for(dataclasses.replace(RUN, run_id="another run"), key(3))
    bench.grid.request_for(dataclasses.replace(RUN, instance="zzzz"), key(4))
    listed = bench.grid.requests_of_instance(RUN.instance)
    assert sorted(listed.values()) == [1, 2]
    assert bench.grid.close_ended(sorted(listed.values())) == RunClosing(closed=(2,), waiting=(taken.request_id,))
    assert bench.status(3).takes_works


def test_a_run_without_requests(bench: Bench) -> None:
    assert bench.grid.close_run(RUN) == RunClosing()


def test_a_start_of_a_run_is_a_generation() -> None:
    moment = datetime(2026, 11, 22, 1, 0, 0, 900_000, tzinfo=UTC)
    elsewhere = moment.astimezone(timezone(timedelta(hours=5)))
    assert generation_of(moment) == generation_of(elsewhere) == int(moment.timestamp())
    assert generation_of(moment + timedelta(seconds=1)) == generation_of(moment) + 1
    assert generation_of(None) == 0


# --- why there is no task -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of_transform", "of_request", "says"),
    [
        ("its own words", "not these", "iDDS transform 9 is Failed: its own words"),
        (None, "the request's words", "iDDS transform 9 is Failed: the request's words"),
        (None, None, "iDDS transform 9 is Failed, and iDDS tells no reason. Most often PanDA refused its submission"),
    ],
)
def test_what_can_be_said_of_it(of_transform: str | None, of_request: str | None, says: str) -> None:
    transform = TransformStatus(transform_id=9, name="t", status="Failed", errors=of_transform)
    request = RequestStatus(request_id=1, name="r", status="Transforming", errors=of_request)
    assert without_reason(transform, request).startswith(says)


def test_what_can_be_said_without_a_request() -> None:
    transform = TransformStatus(transform_id=9, name="t", status="Cancelled")
    assert "ask its operators" in without_reason(transform, None)
