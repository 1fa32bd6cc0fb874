"""What every test has: a private AIRFLOW_HOME, and real services, started once per session."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.stack import activemq as activemq_stack

if TYPE_CHECKING:
    from tests.stack.stack import Stack

# Before anything imports Airflow, which reads it at import and makes the folder.
_HOME = tempfile.mkdtemp(prefix="airflow-provider-panda-home-")
os.environ["AIRFLOW_HOME"] = _HOME
for _name in [name for name in os.environ if name.startswith(("AIRFLOW__", "AIRFLOW_CONN_", "PANDA_", "OIDC_"))]:
    del os.environ[_name]


def pytest_unconfigure() -> None:
    """Remove the private AIRFLOW_HOME."""
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def activemq() -> Iterator[activemq_stack.ActiveMQ]:
    """A running ActiveMQ that tests share; a test that stops or suspends one starts its own."""
    reason = activemq_stack.missing()
    if reason:
        pytest.skip(reason)
    with activemq_stack.ActiveMQ() as broker:
        yield broker


@pytest.fixture(scope="session")
def idds_stack() -> Iterator[Stack]:
    """ActiveMQ, PostgreSQL, iDDS that stores results, and the embedded grid as its PanDA, shared by tests.

    A test may stop a part if it starts it again whatever happens; one that needs other options starts its own stack.
    """
    from tests.stack import stack

    reason = stack.missing()
    if reason:
        pytest.skip(reason)
    with stack.Stack() as running:
        yield running
