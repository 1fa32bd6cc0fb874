"""Task keys and the meaning of PanDA's task states."""

from __future__ import annotations

import logging
import re

import pytest

from airflow_provider_panda.grid.names import processing_type, secret_name, task_name
from airflow_provider_panda.grid.task import KEY_LENGTH, PHASES, Phase, instance_id, phase_of, task_key


def test_key_fits_idds_and_tells_its_instance() -> None:
    instance = instance_id("a secret")
    key = task_key(instance, "0190a5f3-0000-7000-8000-000000000000")
    assert len(key) == KEY_LENGTH
    assert re.fullmatch(r"[a-z0-9]+", key)
    assert key.startswith(f"af{instance}")


def test_key_is_the_same_for_one_try_and_another_for_the_next() -> None:
    assert task_key("abcd", "one") == task_key("abcd", "one")
    assert task_key("abcd", "one") != task_key("abcd", "two")
    assert instance_id("one") != instance_id("two")


@pytest.mark.parametrize(
    ("status", "phase"),
    [
        ("pending", Phase.WAITING),
        ("running", Phase.ACTIVE),
        ("toretry", Phase.ACTIVE),
        ("paused", Phase.ACTIVE),
        ("prepared", Phase.ENDING),
        ("aborting", Phase.ENDING),
        ("done", Phase.DONE),
        ("finished", Phase.PARTIAL),
        ("failed", Phase.FAILED),
        ("broken", Phase.FAILED),
        ("exhausted", Phase.FAILED),
        ("aborted", Phase.KILLED),
    ],
)
def test_phase_of_a_state(status: str, phase: Phase) -> None:
    assert phase_of(status) is phase


def test_only_ends_are_terminal() -> None:
    assert {status for status, phase in PHASES.items() if phase.terminal} == {
        "done", "finished", "failed", "broken", "exhausted", "aborted",
    }  # fmt: skip


def test_an_unknown_state_is_running_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert phase_of("brand-new") is Phase.ACTIVE
        assert phase_of("brand-new") is Phase.ACTIVE
    assert [record.message for record in caplog.records].count(caplog.records[0].message) == 1
    assert "brand-new" in caplog.text


def test_names() -> None:
    name = task_name("my dag", "group.évaluate", "manual__2026-11-22T17:00:00+00:00", "afabcd12345678901234")
    assert name.endswith("-afabcd12345678901234")
    assert re.fullmatch(r"[A-Za-z0-9_-]+", name)
    assert "my_dag" in name
    assert secret_name("abcd") == "AIRFLOW_PANDA_ABCD"
    assert processing_type("abcd") == "airflow-abcd"
