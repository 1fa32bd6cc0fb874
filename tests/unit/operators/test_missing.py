"""What a try sends of a call where earlier tries brought values, and how it is noted: small, whatever the number."""

from __future__ import annotations

import json
import random
from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_panda.operators.missing import (
    NOTE_LIMIT,
    Note,
    Sent,
    decide,
    everything,
    pack_jobs,
    unpack_jobs,
)

FIRST, SECOND, THIRD = "afabcd00000000000001", "afabcd00000000000002", "afabcd00000000000003"


def sent(key: str, *jobs: int, task_id: int | None = 7, **ids: Any) -> Sent:
    return Sent(task_key=key, jobs=jobs, task_id=task_id, **ids)


@given(st.integers(1, 2000), st.data())
def test_jobs_are_unpacked_as_they_were_packed(n_jobs: int, data: st.DataObject) -> None:
    jobs = tuple(sorted(data.draw(st.sets(st.integers(0, n_jobs - 1)))))
    assert unpack_jobs(pack_jobs(jobs, n_jobs), n_jobs) == jobs


KEYS = st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=20, max_size=20)
IDS = st.none() | st.integers(1, 10**12)


@given(
    st.integers(1, 300).flatmap(
        lambda n_jobs: st.builds(
            Note,
            call=st.text(max_size=64),
            n_jobs=st.just(n_jobs),
            tries=st.lists(
                st.builds(
                    Sent,
                    task_key=KEYS,
                    jobs=st.sets(st.integers(0, n_jobs - 1)).map(lambda jobs: tuple(sorted(jobs))),
                    task_id=IDS,
                    request_id=IDS,
                    transform_id=IDS,
                    task_name=st.text(max_size=30),
                ),
                max_size=4,
            ).map(tuple),
        )
    )
)
def test_a_note_is_read_as_it_was_written(note: Note) -> None:
    assert Note.from_text(json.loads(json.dumps(note.to_text()))) == note


@pytest.mark.parametrize(
    ("jobs", "n_jobs", "text"),
    [
        ((), 5, ""),
        ((4,), 5, "4"),
        ((0, 1, 2, 3, 4), 5, "0-4"),
        ((0, 2, 3, 9), 10, "0,2-3,9"),
        (tuple(range(100_000)), 100_000, "0-99999"),
    ],
)
def test_few_ranges_are_written_as_such(jobs: tuple[int, ...], n_jobs: int, text: str) -> None:
    assert pack_jobs(jobs, n_jobs) == text


def test_scattered_jobs_take_little_more_than_a_bit_each() -> None:
    scattered = tuple(job for job in range(100_000) if random.Random(job).random() < 0.5)
    text = pack_jobs(scattered, 100_000)
    assert len(text) < 100_000 // 8 * 1.3
    assert unpack_jobs(text, 100_000) == scattered
    note = Note(call="0" * 64, n_jobs=100_000, tries=(sent(FIRST, *range(100_000)), sent(SECOND, *scattered)))
    assert len(note.to_text()) < NOTE_LIMIT
    every_second = pack_jobs(tuple(range(0, 100_000, 2)), 100_000)
    assert len(every_second) < 200, "a pattern compresses"


@pytest.mark.parametrize(
    "text",
    ["x", "-1", "3-2", "2,2", "2,1", "0-5", "5", "1e3", "z:", "z:!!", "z:" + "0" * 20, pack_jobs((), 9) + ",,"],
)
def test_what_are_no_jobs_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"jobs|invalid literal"):
        unpack_jobs(text, 5)


def test_packed_jobs_of_another_call_are_refused() -> None:
    packed = pack_jobs(tuple(job for job in range(1000) if job % 3 and job % 7), 1000)
    assert packed.startswith("z:")
    with pytest.raises(ValueError, match="are not of 100"):
        unpack_jobs(packed, 100)


@pytest.mark.parametrize(
    "found",
    [
        None, 3, "", "no JSON", "[]", "{}", '{"version": 2}', '{"version":1,"call":"c","n_jobs":2}',
        '{"version":1,"call":"c","n_jobs":2,"tries":[["key"]]}',
        '{"version":1,"call":"c","n_jobs":2,"tries":[["key","0-2",1,null,null,""]]}',
        '{"version":1,"call":"c","n_jobs":2,"tries":[["key",7,1,null,null,""]]}',
        '{"version":1,"call":"c","n_jobs":2,"tries":[["key","0","x",null,null,""]]}',
    ],
)  # fmt: skip
def test_what_is_no_note_is_refused(found: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        Note.from_text(found)


def test_a_note_is_of_one_call() -> None:
    note = everything(call="c", n_jobs=3).noted(sent(FIRST, 0, 1, 2))
    assert note.fits(call="c", n_jobs=3)
    assert not note.fits(call="d", n_jobs=3)
    assert not note.fits(call="c", n_jobs=4)


@pytest.mark.parametrize(
    ("tries", "found", "jobs", "earlier"),
    [
        pytest.param([(FIRST, (0, 1, 2, 3))], [{0, 2}], (1, 3), [FIRST], id="some came"),
        pytest.param([(FIRST, (0, 1, 2, 3))], [set()], (0, 1, 2, 3), [], id="none came, or the record is gone"),
        pytest.param([(FIRST, (0, 1, 2, 3))], [{0, 1, 2, 3}], (), [FIRST], id="all came"),
        pytest.param(
            [(FIRST, (0, 1, 2, 3)), (SECOND, (1, 3))], [{0, 2}, {3}], (1,), [FIRST, SECOND], id="of both tries"
        ),
        pytest.param(
            [(FIRST, (0, 1, 2, 3)), (SECOND, (1, 3))], [{0, 2}, set()], (1, 3), [FIRST], id="the second brought none"
        ),
        pytest.param(
            [(FIRST, (0, 1, 2, 3)), (SECOND, (1, 3))], [set(), {3}], (0, 1, 2), [SECOND], id="the first one's is gone"
        ),
        pytest.param(
            [(FIRST, (0, 1, 2, 3)), (SECOND, (1, 3))], [{0, 2, 3}, {3}], (1,), [FIRST], id="the first try is enough"
        ),
        pytest.param(
            [(FIRST, (0, 1, 2, 3)), (THIRD, (1, 3))], [{0, 1, 2}, set()], (1, 3), [FIRST],
            id="executed once more: what was submitted stays, though a value came late",
        ),
        pytest.param(
            [(FIRST, (0, 1, 2, 3)), (THIRD, (1, 3))], [set(), set()], (1, 3), [],
            id="executed once more, and the record is gone meanwhile",
        ),
        pytest.param([], [], (0, 1, 2, 3), [], id="nothing noted"),
    ],
)  # fmt: skip
def test_what_is_sent(
    tries: list[tuple[str, tuple[int, ...]]], found: list[Collection[int]], jobs: tuple[int, ...], earlier: list[str]
) -> None:
    note = Note(call="c", n_jobs=4, tries=tuple(sent(key, *given) for key, given in tries))
    rest = decide(note, found, key=THIRD)
    assert rest.jobs == jobs
    assert [each.task_key for each in rest.earlier] == earlier
    assert rest.n_kept == 4 - len(jobs)


@given(st.data(), st.integers(1, 30))
def test_every_job_is_sent_or_has_a_value(data: st.DataObject, n_jobs: int) -> None:
    """Over any number of tries, of which records may be lost between."""
    tries: tuple[Sent, ...] = ()
    for number in range(data.draw(st.integers(1, 5))):
        found = [data.draw(st.sets(st.sampled_from(each.jobs)) if each.jobs else st.just(set())) for each in tries]
        rest = decide(Note(call="c", n_jobs=n_jobs, tries=tries), found, key=f"key {number}")
        has_value = set().union(*found)
        assert set(rest.jobs) | has_value == set(range(n_jobs))
        assert not set(rest.jobs) & has_value
        keep = {each.task_key for each in rest.earlier}
        assert has_value == set().union(
            *(jobs for each, jobs in zip(tries, found, strict=True) if each.task_key in keep)
        )
        tries = rest.noted(sent(f"key {number}", *rest.jobs)).tries
