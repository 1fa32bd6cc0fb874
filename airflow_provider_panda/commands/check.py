"""``airflow panda check CONN``: try a connection step by step, and say what is wrong. Changes nothing."""

from __future__ import annotations

import sys
import time
from argparse import Namespace

from airflow_provider_panda.commands import reach, read_connections_from_database, rights, services, stores
from airflow_provider_panda.commands.steps import Step, Told, ok, report, take, warn
from airflow_provider_panda.commands.subject import Subject
from airflow_provider_panda.grid import answers
from airflow_provider_panda.hooks.lookup import extras_of, look_up
from airflow_provider_panda.hooks.panda import concerns


def check(args: Namespace) -> None:
    """Print a line a step; exit with 1 if a step is wrong."""
    read_connections_from_database()
    subject = Subject(args.conn_id)
    findings = take([*preflight(subject), *further(subject)])
    sys.exit(report(args.conn_id, findings, as_json=args.output == "json", show=print))


def preflight(subject: Subject) -> list[Step]:
    """Return the steps up to being accepted by PanDA, with which everything begins."""
    return [
        Step(name="connection", act=lambda: _connection(subject)),
        Step(name="network", needs=("connection",), act=lambda: reach.network(subject.endpoint)),
        Step(name="TLS", needs=("network",), act=lambda: reach.tls(subject.endpoint)),
        Step(name="PanDA", needs=("TLS",), act=lambda: _alive(subject)),
        Step(name="clock", needs=("PanDA",), act=lambda: _clock(subject)),
        Step(name="credentials", needs=("connection",), act=lambda: rights.credentials(subject)),
        Step(name="VO", needs=("PanDA", "credentials"), act=lambda: rights.vo(subject)),
        Step(name="role", needs=("VO",), act=lambda: rights.role(subject)),
        Step(name="queue", needs=("role",), act=lambda: rights.queue(subject)),
    ]


def further(subject: Subject) -> list[Step]:
    """Return the steps that see whether all is set up."""
    return [
        Step(name="instance", needs=("connection",), act=lambda: stores.instance(subject)),
        Step(name="tasks", needs=("instance", "role"), act=lambda: stores.tasks(subject)),
        Step(name="user secret", needs=("instance", "role"), act=lambda: stores.user_secret(subject)),
        Step(name="download", needs=("instance", "PanDA"), act=lambda: stores.download(subject)),
        Step(name="iDDS", needs=("role",), act=lambda: services.idds(subject)),
        Step(name="broker login", needs=("connection",), act=lambda: services.broker_login(subject)),
        Step(name="broker subscribe", needs=("broker login",), act=lambda: services.broker_subscribe(subject)),
        Step(name="broker publish", needs=("broker subscribe",), act=lambda: services.broker_publish(subject)),
        Step(name="broker delivery", needs=("broker publish",), act=lambda: services.broker_delivery(subject)),
    ]


def _connection(subject: Subject) -> Told:
    connection = subject.connection
    text = f"{connection.endpoint.url}, auth {connection.endpoint.auth.value}, service {connection.service}"
    doubts = concerns(connection, extras_of(look_up(subject.conn_id)))
    return warn(f"{text}; {'; '.join(doubts)}") if doubts else ok(text)


def _alive(subject: Subject) -> Told:
    reply = subject.ask_alive()
    answers.granted(answers.read_answer(reply.status, reply.body, reply.url))
    return ok(f"a PanDA server answers at {subject.endpoint.url}")


def _clock(subject: Subject) -> Told:
    before = time.time()
    reply = subject.ask_alive()
    return reach.clock(reply.date, before, time.time())
