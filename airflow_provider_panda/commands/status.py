"""``airflow panda status [CONN]``: how those fare who wait for grid tasks. Changes nothing at any service."""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from airflow_provider_panda import configuration
from airflow_provider_panda.commands import read_connections_from_database, services
from airflow_provider_panda.commands.steps import Finding, Step, Told, Verdict, ok, take
from airflow_provider_panda.commands.subject import Subject
from airflow_provider_panda.grid import answers
from airflow_provider_panda.triggers import reports
from airflow_provider_panda.triggers.reports import AddressReport, BrokerReport, PandaReport, Report

MISSED: Final = 4
"""Reports that did not come after which a process counts as hanging."""

PATIENCE: Final = 60.0
"""Seconds that are no trouble yet: without any address that is listened to, or of tasks without a report of theirs."""

DEFAULT_CONNECTION: Final = "panda_default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deferred:
    """Task instances that wait on triggers of this provider.

    :param host: host of their triggerer, or None while none has taken them.
    :param tasks: how many.
    :param settled: how many of them wait for longer than :data:`PATIENCE`.
    """

    host: str | None
    tasks: int
    settled: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What was found out on this machine and in Airflow's database.

    :param host: name of this host, as Airflow's jobs have it.
    :param now: present Unix time in seconds.
    :param reports: reports of the processes of this host.
    :param unreadable: files of reports that cannot be read.
    :param folder: where they are.
    :param deferred: deferred task instances, or None where the database was not asked.
    """

    host: str
    now: float
    reports: Sequence[Report]
    unreadable: Sequence[str] = ()
    folder: str = ""
    deferred: Sequence[Deferred] | None = None


def status(args: Namespace) -> None:
    """Print a line for each thing that was found; exit with 1 if anything is wrong."""
    read_connections_from_database()
    folder = reports.folder_of(configuration.home())
    found, unreadable = reports.read(folder, reports.this_host())
    deferred, trouble = (None, []) if args.probe else _ask_database()
    scene = Scene(
        host=_airflow_host(),
        now=time.time(),
        reports=[_only(each, args.conn_id) for each in found],
        unreadable=[str(file) for file in unreadable],
        folder=str(folder),
        deferred=deferred,
    )
    findings = alive(scene) if args.probe else judge(scene) + trouble
    if not args.probe:
        for conn_id in connections_to_ask(scene, args.conn_id):
            findings += _services(conn_id)
    sys.exit(show(scene, findings, as_json=args.output == "json", line=print))


# --- what it amounts to ---------------------------------------------------------------------------------------------


def alive(scene: Scene) -> list[Finding]:
    """Return whether the processes of this host that wait are alive: what a restart of theirs could mend."""
    found = [_process(report, scene.now) for report in scene.reports]
    return found or [Finding(step="triggerer", verdict=Verdict.OK, text="no process of this host waits")]


def judge(scene: Scene) -> list[Finding]:
    """Return what can be said of a scene."""
    found: list[Finding] = []
    for report in scene.reports:
        process = _process(report, scene.now)
        found.append(process)
        if process.verdict is not Verdict.WRONG:  # of one that hangs, the rest is history
            found += [_broker(report, broker, scene.now) for broker in report.brokers]
            found += [_panda(report, panda) for panda in report.connections]
    for file in scene.unreadable:
        found.append(Finding(step="report", verdict=Verdict.WARN, text=f"{file} cannot be read; remove it"))
    if not scene.reports:
        found.append(Finding(step="triggerer", verdict=Verdict.OK, text="no process of this host waits"))
    return found + list(_deferred(scene))


def _process(report: Report, now: float) -> Finding:
    age = now - report.at
    step = f"triggerer ({report.process})"
    if age > MISSED * report.every:
        return Finding(
            step=step,
            verdict=Verdict.WRONG,
            text=f"its last report is {_span(age)} old, and one is due every {report.every:g} s: it hangs, and its "
            "tasks with it. Look at its log for a trigger that blocks the event loop, and restart it: waits go on "
            "where they were",
        )
    waiting = sum(panda.waiting for panda in report.connections)
    return Finding(step=step, verdict=Verdict.OK, text=f"{waiting} trigger(s) wait; reported {_span(age)} ago")


def _broker(report: Report, broker: BrokerReport, now: float) -> Finding:
    step = f"broker {broker.name} (process {report.pid})"
    counts = [
        f"{broker.waiting} waiting",
        f"{broker.messages} message(s)" + _when(broker.last_message, now),
        f"{broker.delivered} delivered",
        *(f"{count} dropped: {reason}" for reason, count in sorted(broker.dropped.items())),
        f"{broker.reconnects} connection(s) lost so far",
    ]
    if broker.results:
        counts.append(f"{broker.latency_total / broker.results:.1f} s from the end of a function to its delivery")
    if broker.inbox_bytes:
        counts.append(f"{broker.inbox_bytes / 2**20:.1f} MiB wait for the event loop")
    told = ", ".join(counts)
    lost = [each for each in broker.addresses if each.state != "listening"]
    if not broker.addresses:
        return Finding(step=step, verdict=Verdict.OK, text=f"not connected, for nobody waits for a message; {told}")
    if not lost:
        since = min(each.since for each in broker.addresses)
        where = ", ".join(broker.connected)
        return Finding(step=step, verdict=Verdict.OK, text=f"listens to {where} for {_span(now - since)}; {told}")
    trouble = "; ".join(
        f"{each.address} not listened to for {_span(now - each.since)} ({_reason(each)})" for each in lost
    )
    if broker.connected:
        return Finding(step=step, verdict=Verdict.WARN, text=f"{trouble}; {len(broker.connected)} other(s) are; {told}")
    down = now - max(each.since for each in lost)
    return Finding(
        step=step,
        verdict=Verdict.WRONG if down > PATIENCE else Verdict.WARN,
        text=f"{trouble}; it is tried again every few seconds, and results come from PanDA's record meanwhile, later. "
        f"`airflow panda check` tries the broker step by step; {told}",
    )


def _reason(address: AddressReport) -> str:
    return (address.problem or address.state).removeprefix(f"broker {address.address}: ")


def _panda(report: Report, panda: PandaReport) -> Finding:
    text = (
        f"{panda.waiting} trigger(s) wait; PanDA's record was read {panda.reconciliations} time(s) for results; "
        f"{panda.failed_listings} of {panda.listings} listing(s) failed"
    )
    return Finding(step=f"waits with {panda.name} (process {report.pid})", verdict=Verdict.OK, text=text)


def _deferred(scene: Scene) -> Iterator[Finding]:
    if scene.deferred is None:
        return
    if not scene.deferred:
        yield Finding(step="deferred tasks", verdict=Verdict.OK, text="none waits for this provider's triggers")
    for each in scene.deferred:
        step, verdict = f"deferred tasks ({each.host or 'no triggerer'})", Verdict.OK
        text = f"{each.tasks} task(s) wait"
        if each.host is None and each.settled:
            verdict = Verdict.WRONG
            text += f", {each.settled} of them for over a minute, and no triggerer has taken them: start one"
        elif each.host == scene.host and each.settled and not scene.reports:
            verdict = Verdict.WRONG
            text += (
                f", {each.settled} of them for over a minute, and no process of this host reports in {scene.folder}: "
                "its triggerer is gone or hangs, or has another AIRFLOW_HOME, or runs as another user"
            )
        elif each.host != scene.host:
            text += "; how they fare there, this command says there, and Airflow's metrics here"
        yield Finding(step=step, verdict=verdict, text=text)


def connections_to_ask(scene: Scene, conn_id: str | None) -> list[str]:
    """Return the PanDA connections whose services are asked: the one named, or those that somebody waits with."""
    if conn_id is not None:
        return [conn_id]
    names = {panda.name for report in scene.reports for panda in report.connections if panda.waiting}
    return sorted(names) or [DEFAULT_CONNECTION]


def _only(report: Report, conn_id: str | None) -> Report:
    """Return a report without what is not of a connection."""
    if conn_id is None:
        return report
    connections = tuple(each for each in report.connections if each.name == conn_id)
    brokers = {each.broker for each in connections}
    return Report(
        host=report.host, pid=report.pid, born=report.born, at=report.at, every=report.every,
        brokers=tuple(each for each in report.brokers if each.name in brokers), connections=connections,
    )  # fmt: skip


# --- what is asked --------------------------------------------------------------------------------------------------


def _ask_database() -> tuple[list[Deferred] | None, list[Finding]]:
    """Return the deferred tasks, or None and what is wrong."""
    try:
        return deferred_tasks(datetime.now(UTC)), []
    except Exception as error:  # whatever its driver raises
        text = f"it does not answer: {error}"[:500]
        return None, [Finding(step="Airflow's database", verdict=Verdict.WRONG, text=text)]


def deferred_tasks(now: datetime) -> list[Deferred]:
    """Return the deferred task instances on this provider's triggers, by the host of their triggerer."""
    from airflow.jobs.job import Job
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.trigger import Trigger
    from airflow.utils.session import create_session
    from airflow.utils.state import TaskInstanceState
    from sqlalchemy import case, func, select

    settled = case((Trigger.created_date < now - timedelta(seconds=PATIENCE), 1), else_=0)
    query = (
        select(Job.hostname, func.count(), func.sum(settled))
        .select_from(TaskInstance)
        .join(Trigger, TaskInstance.trigger_id == Trigger.id)
        .outerjoin(Job, Job.id == Trigger.triggerer_id)
        .where(TaskInstance.state == TaskInstanceState.DEFERRED)
        .where(Trigger.classpath.like("airflow\\_provider\\_panda.%", escape="\\"))
        .group_by(Job.hostname)
    )
    with create_session() as session:
        rows = session.execute(query).all()
    found = [Deferred(host=host, tasks=int(tasks), settled=int(old or 0)) for host, tasks, old in rows]
    return sorted(found, key=lambda each: each.host or "")


def _services(conn_id: str) -> list[Finding]:
    subject = Subject(conn_id)
    return list(
        take(
            [
                Step(name=f"PanDA ({conn_id})", act=lambda: _panda_answers(subject)),
                Step(name=f"iDDS ({conn_id})", needs=(f"PanDA ({conn_id})",), act=lambda: services.idds(subject)),
            ]
        )
    )


def _panda_answers(subject: Subject) -> Told:
    reply = subject.ask_alive()
    answers.granted(answers.read_answer(reply.status, reply.body, reply.url))
    return ok(f"answers at {subject.endpoint.url}")


def _airflow_host() -> str:
    from airflow.utils.net import get_hostname

    return str(get_hostname())


# --- how it is told -------------------------------------------------------------------------------------------------


def show(scene: Scene, findings: Sequence[Finding], *, as_json: bool, line: Callable[[str], object]) -> int:
    """Show what was found, and return the exit code.

    :param as_json: whether to show one JSON object in place of lines.
    :param line: takes a line.
    """
    good = all(finding.verdict is not Verdict.WRONG for finding in findings)
    if as_json:
        line(json.dumps(_as_json(scene, findings, good=good), indent=2))
    else:
        for finding in findings:
            line(finding.line)
    return 0 if good else 1


def _as_json(scene: Scene, findings: Sequence[Finding], *, good: bool) -> dict[str, Any]:
    deferred = scene.deferred
    return {
        "ok": good,
        "host": scene.host,
        "steps": [{"step": each.step, "verdict": each.verdict.value, "text": each.text} for each in findings],
        "processes": [{**each.to_json(), "age": round(scene.now - each.at, 1)} for each in scene.reports],
        "deferred": None if deferred is None else [{"host": each.host, "tasks": each.tasks} for each in deferred],
    }


def _span(seconds: float) -> str:
    seconds = max(0.0, seconds)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _when(moment: float | None, now: float) -> str:
    return "" if moment is None else f", the last one {_span(now - moment)} ago"
