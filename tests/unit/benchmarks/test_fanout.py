"""The fan-out benchmark's own arithmetic, and what it makes up."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import pytest

from airflow_provider_panda.payload import envelope
from airflow_provider_panda.payload.result import read_body
from benchmarks.fanout import ALL_TARGETS, Sent, arguments_alone, beyond_arguments, by_size, growth, pack, sent_figures
from benchmarks.fanout_expand import DAGS, seconds_of
from benchmarks.fanout_publisher import CASES, message_of, raises

KEY = "afabcd12345678901234"
SIGNING_KEY = envelope.derive_key("s", KEY)


def sent(**figures: Any) -> Sent:
    given = {
        "pack": 0.1,
        "upload": 0.2,
        "submit": 0.3,
        "upload_floor": 0.05,
        "archive_bytes": 30_000,
        "submit_bytes": 9,
    }
    return Sent(**{**given, **figures})


def test_bytes_beyond_arguments_leave_out_what_one_job_has_and_the_arguments() -> None:
    assert beyond_arguments(archive=24_000, archive_of_one=20_000, arguments=3_000, jobs=1_000) == 1.0
    assert arguments_alone(3, 10) == len(gzip.compress(b"10\n11\n12\n", 6))
    assert 0 < beyond_arguments(len(pack(1000).content), len(pack(1).content), arguments_alone(1000), 1000) < 20


def test_figures_of_sending_off_are_medians_by_size() -> None:
    figures = sent_figures({10: [sent(pack=1.0), sent(pack=2.0), sent(pack=9.0)], 1000: [sent()]})
    assert figures["submit_10_s"] == 2.5
    assert figures["submit_1000_s"] == 0.6
    assert figures["archive_bytes_per_job"] == max(figures["archive_bytes_per_job_by_n"].values())
    assert figures["archive_bytes"] == {10: 30_000, 1000: 30_000}


def test_growth_compares_the_most_jobs_with_the_fewest() -> None:
    assert growth({1000: 20.0, 10: 10.0, 100: 99.0}) == 2.0


def test_medians_go_by_the_number_of_jobs() -> None:
    class One:
        def __init__(self, jobs: int, cpu: float) -> None:
            self.jobs, self.cpu = jobs, cpu

    waits = [One(10, 1.0), One(10, 3.0), One(10, 2.0), One(20, 5.0)]
    assert by_size(waits, lambda one: one.cpu) == {10: 2.0, 20: 5.0}


@pytest.mark.parametrize("case", CASES)
def test_made_up_messages_are_those_of_real_jobs(case: str) -> None:
    headers, body = message_of(3, case, key=KEY, signing_key=SIGNING_KEY)
    result = read_body(body, key=SIGNING_KEY, task_key=KEY)
    assert headers["internal_id"] == KEY
    assert result.job == 3
    assert result.returned is not raises(3, case)
    assert result.returned or result.exception is not None


def test_the_mixed_case_has_about_as_many_of_both_and_always_the_same() -> None:
    raised = [raises(job, "mixed") for job in range(1000)]
    assert 400 < sum(raised) < 600
    assert raised == [raises(job, "mixed") for job in range(1000)]


def test_what_panda_is_made_to_answer_has_every_job_once() -> None:
    from benchmarks.fanout_trigger import MadeUpPanda

    panda = MadeUpPanda(250, "mixed")
    panda.key, panda.signing_key = KEY, SIGNING_KEY
    batches = list(panda.records())
    assert [len(batch) for batch in batches] == [100, 100, 50]
    records = [record for batch in batches for record in batch]
    assert [record.job for record in records] == list(range(250))
    assert [record.status == "failed" for record in records] == [raises(job, "mixed") for job in range(250)]


async def test_a_wait_ends_with_everything_told() -> None:
    from benchmarks.fanout_trigger import resumed, waited

    async with asyncio.timeout(60):
        wait = await waited(700, "mixed")
    assert wait.event.n_failures == sum(raises(job, "mixed") for job in range(700))
    assert wait.event_bytes == len(json.dumps(wait.event.to_json()))
    assert resumed(wait).requests == 7


def test_dags_are_python_and_runs_are_timed_by_airflow() -> None:
    text = DAGS.format(python="/usr/bin/python3", count=7)
    compile(text, "dags", "exec")
    assert "list(range(7))" in text
    assert seconds_of({"start_date": "2026-11-26T00:00:59.5Z", "end_date": "2026-11-26T00:01:10Z"}) == 10.5


def test_targets_are_those_that_were_set() -> None:
    assert {target.key: target.limit for target in ALL_TARGETS} == {
        "submit_10000_s": 5, "archive_bytes_per_job": 200, "gather_ratio": 1.5, "trigger_bytes_per_job": 1024,
        "event_bytes": 65536,
    }  # fmt: skip
