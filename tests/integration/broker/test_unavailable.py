"""Values come home from brokers that are away, silent or full (unavailable.py)."""

from __future__ import annotations

import subprocess

import pytest

from tests.stack.activemq import missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@pytest.mark.timeout(420)
def test_values_come_home_from_brokers_that_are_away_silent_or_full(unavailable: subprocess.Popen[str] | None) -> None:
    assert unavailable is not None
    told, _ = unavailable.communicate(timeout=400)
    assert unavailable.returncode == 0, told
    assert "1 passed" in told
