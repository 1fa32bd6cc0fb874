"""Selectors of the embedded broker."""

from __future__ import annotations

import pytest

from airflow_provider_panda.local.selector import SelectorError, parse_selector

HEADERS = {"internal_id": "af1234xyz", "channel": "asyncresult", "type": "it's", "n": "5"}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("internal_id LIKE 'af1234%'", True),
        ("internal_id like 'af12_4%'", True),
        ("internal_id LIKE 'af1235%'", False),
        ("internal_id LIKE 'af1234'", False),
        ("internal_id NOT LIKE 'b%'", True),
        ("internal_id = 'af1234xyz'", True),
        ("internal_id='af1234'", False),
        ("internal_id <> 'x'", True),
        ("missing = 'x'", False),
        ("missing <> 'x'", False),
        ("missing NOT LIKE 'x'", False),
        ("missing IS NULL", True),
        ("channel IS NOT NULL", True),
        ("type = 'it''s'", True),
        ("n = 5", True),
        ("channel IN ('a', 'asyncresult')", True),
        ("channel NOT IN ('a')", True),
        ("channel = 'a' OR internal_id LIKE 'af%'", True),
        ("channel = 'a' AND internal_id LIKE 'af%'", False),
        ("channel = 'a' AND n = 5 OR n = 5", True),
        ("n = 5 AND (channel = 'a' OR type = 'it''s')", True),
        ("NOT channel = 'a'", True),
        ("internal_id LIKE '%.%'", False),
    ],
)
def test_selects(text: str, wanted: bool) -> None:
    assert parse_selector(text)(HEADERS) is wanted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "internal_id",
        "internal_id LIKE",
        "internal_id = af",
        "a = 'b' c",
        "a = 'b' AND",
        "(a = 'b'",
        "a > 3",
        "a IN ()",
        "a = 'b",
        "(" * 200 + "a = 'b'" + ")" * 200,
        "a = '" + "x" * 5000 + "'",
    ],
)
def test_refuses(text: str) -> None:
    with pytest.raises(SelectorError):
        parse_selector(text)
