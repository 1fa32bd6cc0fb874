"""Fixtures for every test: real services, started once per session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.stack import activemq as activemq_stack


@pytest.fixture(scope="session")
def activemq() -> Iterator[activemq_stack.ActiveMQ]:
    """A running ActiveMQ that tests share; a test that stops or suspends one starts its own."""
    reason = activemq_stack.missing()
    if reason:
        pytest.skip(reason)
    with activemq_stack.ActiveMQ() as broker:
        yield broker
