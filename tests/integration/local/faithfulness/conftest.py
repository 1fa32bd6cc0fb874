"""The grids of the faithfulness suite, and the table that it prints at the end."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.integration.local.conftest import RunningGrid
from tests.stack.scripted_panda import body, scripted_panda

from .listener import Listener
from .table import coverage
from .world import OPTIONS, World


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A grid in the situations of the samples."""
    folder = tmp_path_factory.mktemp("faithfulness")
    grid = RunningGrid(folder / "data", "--register-delay", "0.05", *OPTIONS)
    with scripted_panda() as idds:
        idds.on("/ping", body(json.dumps({"Status": "OK"}), content_type="application/json"))
        other = RunningGrid(folder / "unregistered", "--register-delay", "600", "--idds-host", idds.url, *OPTIONS)
        with Listener(grid) as listener:
            yield World(grid, other, listener)
        assert grid.stop() == 0
        assert other.stop() == 0


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what is covered, by name."""
    ran = {
        report.nodeid
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport)
    }
    if any("faithfulness" in nodeid for nodeid in ran):
        terminalreporter.section("faithfulness of the embedded grid")
        terminalreporter.write_line(coverage())
