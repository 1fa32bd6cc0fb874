"""What the headers of an answer say, whatever they hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_panda.grid.session import announced_length, seconds_to_wait

NOW = "Thu, 26 Nov 2026 03:00:00 GMT"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("", None),
        ("30", 30),
        (" 5 ", 5),
        ("Thu, 26 Nov 2026 03:02:00 GMT", 120),
        ("Thu, 26 Nov 2026 02:00:00 GMT", 0),
        ("soon", None),
        ("-3", None),
        ("3.5", None),
        ("²", None),
    ],
)
def test_retry_after(header: str, seconds: float | None) -> None:
    """A date counts by the server's clock: ours may be hours off."""
    assert seconds_to_wait(header, NOW) == seconds


@given(st.text(), st.one_of(st.just(NOW), st.text()))
def test_any_retry_after(header: str, date: str) -> None:
    found = seconds_to_wait(header, date)
    assert found is None or found >= 0


@given(st.one_of(st.text(), st.text("0123456789²")))
def test_any_content_length(header: str) -> None:
    assert announced_length(header) >= 0
