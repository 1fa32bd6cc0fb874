"""What the triggers of one process tell about themselves, and the file in which ``airflow panda status`` reads it.

One file per process, rewritten every few seconds while somebody waits: a process whose file is not rewritten any more
hangs, and one whose file names a process that is gone was killed. No secret is in it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from airflow_provider_panda.grid.identity.tokenstore import write_private

FOLDER: Final = ("panda", "hubs")
"""Folder of the files below AIRFLOW_HOME."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressReport:
    """One broker address.

    :param address: name, IP address and port.
    :param state: what its connection is doing (:class:`~airflow_provider_panda.broker.connection.State`).
    :param since: Unix time in seconds since which it listens, or does not.
    :param problem: why the last attempt ended, or None.
    """

    address: str
    state: str
    since: float
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerReport:
    """One broker connection. Counts begin with the process.

    :param name: id of the Airflow connection.
    :param addresses: its addresses; none while nobody waits for a message.
    :param waiting: tasks whose messages are waited for.
    :param messages: messages received.
    :param delivered: results and status messages handed over to those who wait.
    :param dropped: messages dropped, by reason (:class:`~airflow_provider_panda.broker.screen.Drop`).
    :param reconnects: how often a connection that listened was lost.
    :param inbox_bytes: bytes of messages that wait for the event loop.
    :param last_message: Unix time in seconds of the last message, or None.
    :param results: results whose latency is known.
    :param latency_total: seconds from the end of their functions to their delivery, together.
    :param latency_mean: seconds, of the results since the report before.
    :param latency_longest: seconds, likewise.
    """

    name: str
    addresses: tuple[AddressReport, ...] = ()
    waiting: int = 0
    messages: int = 0
    delivered: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    reconnects: int = 0
    inbox_bytes: int = 0
    last_message: float | None = None
    results: int = 0
    latency_total: float = 0.0
    latency_mean: float = 0.0
    latency_longest: float = 0.0

    @property
    def connected(self) -> tuple[str, ...]:
        """Addresses that are listened to."""
        return tuple(each.address for each in self.addresses if each.state == "listening")


@dataclass(frozen=True, slots=True, kw_only=True)
class PandaReport:
    """One PanDA connection. Counts begin with the process.

    :param name: id of the Airflow connection.
    :param broker: id of its broker connection, or None.
    :param waiting: triggers that wait.
    :param reconciliations: how often a wait read PanDA's record.
    :param listings: listings that the status boards asked for.
    :param failed_listings: how many of them PanDA did not give.
    """

    name: str
    broker: str | None = None
    waiting: int = 0
    reconciliations: int = 0
    listings: int = 0
    failed_listings: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one process tells.

    :param host: name of its host.
    :param pid: its process id.
    :param born: when the process began, as the system says it: ids are used again.
    :param at: Unix time in seconds of the report.
    :param every: seconds between two reports.
    :param brokers: its broker connections.
    :param connections: its PanDA connections.
    """

    host: str
    pid: int
    born: float
    at: float
    every: float
    brokers: tuple[BrokerReport, ...] = ()
    connections: tuple[PandaReport, ...] = ()

    @property
    def process(self) -> str:
        """The process in words."""
        return f"{self.host}, process {self.pid}"

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Report:
        """Read back what :meth:`to_json` made; fields of a newer version are ignored.

        :raises KeyError, TypeError, ValueError: it is none.
        """
        brokers = tuple(
            BrokerReport(
                **{
                    **_known(BrokerReport, each),
                    "addresses": tuple(AddressReport(**_known(AddressReport, a)) for a in each["addresses"]),
                }
            )
            for each in content["brokers"]
        )
        connections = tuple(PandaReport(**_known(PandaReport, each)) for each in content["connections"])
        return cls(**{**_known(cls, content), "brokers": brokers, "connections": connections})


def _known(kind: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    names = {each.name for each in dataclasses.fields(kind)}
    return {name: value for name, value in fields.items() if name in names}


def this_host() -> str:
    """Return the name of this host."""
    return socket.gethostname()


def born(pid: int) -> float | None:
    """Return when a process of this host began, or None if there is none."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def folder_of(home: Path) -> Path:
    """Return the folder of the reports.

    :param home: AIRFLOW_HOME.
    """
    return home.joinpath(*FOLDER)


def write(report: Report, folder: Path) -> Path:
    """Write a report in one step, and return its file. Blocks.

    :raises OSError: it cannot be written.
    """
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    file = folder / f"{_host_part(report.host)}-{report.pid}.json"
    write_private(file, json.dumps(report.to_json()))
    return file


def read(folder: Path, host: str) -> tuple[list[Report], list[Path]]:
    """Return the reports of the processes of a host that are there, and files that are no report.

    Those of processes that are gone are removed.

    :param folder: folder of the reports.
    :param host: name of this host.
    """
    reports, unreadable = [], []
    for file in sorted(folder.glob(f"{_host_part(host)}-*.json")):
        try:
            report = Report.from_json(json.loads(file.read_text()))
        except FileNotFoundError:
            continue  # it has ended meanwhile
        except (OSError, ValueError, KeyError, TypeError):
            unreadable.append(file)
            continue
        if report.host != host:
            continue
        began = born(report.pid)
        if began is None or abs(began - report.born) > 2:
            file.unlink(missing_ok=True)
        else:
            reports.append(report)
    return reports, unreadable


def with_birth(report: Report) -> Report:
    """Return a report of this process that tells when it began. Blocks."""
    return dataclasses.replace(report, born=born(report.pid) or 0.0)


def own_pid() -> int:
    """Return the id of this process."""
    return os.getpid()


def _host_part(host: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]", "_", host)
