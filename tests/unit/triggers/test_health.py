"""Who reports while somebody waits, what is in the file, and that nothing of it disturbs a wait."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_provider_panda import configuration
from airflow_provider_panda.broker import hub
from airflow_provider_panda.triggers import health, metrics, reports
from airflow_provider_panda.triggers.connections import WaitCounts
from airflow_provider_panda.triggers.health import Sums, waiting_with
from airflow_provider_panda.triggers.reports import BrokerReport, PandaReport, Report
from tests.unit.triggers.scripted import Idds, Panda, shared


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(configuration, "home", lambda: tmp_path)
    monkeypatch.setattr(health.Reporter.__init__, "__kwdefaults__", {"every": 0.1})
    monkeypatch.setattr(health, "TOGETHER", 0.0)
    return reports.folder_of(tmp_path)


def written(folder: Path) -> list[Report]:
    return [Report.from_json(json.loads(file.read_text())) for file in folder.glob("*.json")]


async def test_a_process_reports_while_somebody_waits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    emitted: list[metrics.Sample] = []
    monkeypatch.setattr(metrics, "emit", emitted.extend)
    connection = shared(Idds(), Panda())
    connection.counts.conn_id = "c"
    with waiting_with(connection), waiting_with(connection):
        connection.counts.reconciliations += 3
        await until(lambda: folder.exists() and any(each.connections for each in written(folder)))
        (report,) = written(folder)
        assert report.connections == (PandaReport(name="c", waiting=2, reconciliations=3),)
        assert (report.host, report.pid) == (reports.this_host(), os.getpid())
        found, unreadable = reports.read(folder, reports.this_host())
        assert ([each.pid for each in found], unreadable) == ([os.getpid()], [])
        assert [path.stat().st_mode & 0o777 for path in (folder, *folder.glob("*.json"))] == [0o700, 0o600]
        first = report.at
        await until(lambda: written(folder)[0].at > first)
    await until(lambda: not list(folder.iterdir()))
    told = [(each.name, each.value) for each in emitted]
    assert ("panda.waiting", 2) in told
    assert told.count(("panda.reconciliations", 3)) == 1, "what was counted once is told once"
    assert told[-1] == ("panda.waiting", 0)
    with waiting_with(connection):  # and it begins anew
        await until(lambda: written(folder))


async def test_what_cannot_be_told_is_said_once_and_the_wait_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder.parent.write_text("a file where the folder should be")

    def refuses(found: object) -> None:
        raise OSError("no metrics today")

    monkeypatch.setattr(metrics, "emit", refuses)
    rounds: list[Report] = []
    publish = health.Reporter._publish
    monkeypatch.setattr(
        health.Reporter, "_publish", lambda self, report: (publish(self, report), rounds.append(report))[0]
    )
    with caplog.at_level(logging.WARNING), waiting_with(shared(Idds(), Panda())):
        await until(lambda: len(rounds) >= 3)
    assert len([record for record in caplog.records if "this is said once" in record.getMessage()]) == 2


async def test_a_mistake_in_counting_is_no_end_of_reporting(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    collect, failed = health.Reporter._collect, []

    def fails_first(self: health.Reporter) -> Report:
        if not failed:
            failed.append(True)
            raise ZeroDivisionError
        return collect(self)

    monkeypatch.setattr(health.Reporter, "_collect", fails_first)
    with caplog.at_level(logging.WARNING), waiting_with(shared(Idds(), Panda())):
        await until(lambda: list(folder.glob("*.json")))
    assert "cannot be told: ZeroDivisionError()" in caplog.text


async def test_a_change_of_a_connection_is_reported_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health.Reporter.__init__, "__kwdefaults__", {"every": 3600.0})
    with waiting_with(shared(Idds(), Panda())):
        await until(lambda: written(folder))
        first = written(folder)[0].at
        hub.changes_of(asyncio.get_running_loop()).set()
        await until(lambda: written(folder)[0].at > first)
    hub.changes_of(asyncio.get_running_loop()).set()
    await until(lambda: not list(folder.iterdir()))


def test_reports_of_processes_that_are_gone_are_removed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        there = Report(host="h", pid=process.pid, born=reports.born(process.pid) or 0, at=5.0, every=10.0)
        file = reports.write(there, tmp_path)
        other = reports.write(Report(host="other", pid=process.pid, born=0, at=5.0, every=10.0), tmp_path)
        used_again = reports.write(Report(host="h", pid=os.getpid(), born=5.0, at=5.0, every=10.0), tmp_path)
        broken = tmp_path / "h-5.json"
        broken.write_text('{"host": "h"')
        assert reports.read(tmp_path, "h") == ([there], [broken])
        assert not used_again.exists(), "another process has its id by now"
        process.communicate(b"\n")
    assert reports.read(tmp_path, "h") == ([], [broken])
    assert not file.exists()
    assert other.exists(), "of processes of other hosts nothing is known here"


def test_a_report_survives_its_file_and_a_newer_version() -> None:
    report = Report(
        host="h", pid=5, born=1.0, at=2.0, every=10.0, brokers=(BrokerReport(name="b", dropped={"no_key": 1}),)
    )  # fmt: skip
    content = json.loads(json.dumps(report.to_json()))
    content["added_later"] = content["brokers"][0]["added_later"] = 1
    assert Report.from_json(content) == report


def test_sums_never_fall() -> None:
    sums, first, second = Sums(), WaitCounts(), WaitCounts()
    sums.take(first, "n", {"x": 5})
    sums.take(first, "n", {"x": 7})
    sums.take(second, "n", {"x": 1})
    sums.forget([second])
    sums.take(second, "n", {"x": 2, "y": 1})
    assert dict(sums.of("n")) == {"x": 9, "y": 1}
    assert sums.names() == ["n"]
