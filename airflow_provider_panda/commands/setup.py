"""``airflow panda setup CONN``: give an Airflow instance its secret, and PanDA's jobs what they need to report back."""

from __future__ import annotations

import json
import secrets
import sys
from argparse import Namespace

from airflow_provider_panda.commands import read_connections_from_database, stores
from airflow_provider_panda.commands.check import preflight
from airflow_provider_panda.commands.steps import Step, Told, ok, report, take
from airflow_provider_panda.commands.subject import Subject
from airflow_provider_panda.exceptions import ConfigurationError


def setup(args: Namespace) -> None:
    """Make the instance secret if there is none, store it with the broker's login with PanDA, and try the cache.

    Nothing secret is printed. To be run again after the broker connection changed.
    """
    read_connections_from_database()
    subject = Subject(args.conn_id)
    steps = [
        *preflight(subject),
        Step(
            name="instance secret",
            needs=("connection",),
            act=lambda: _instance_secret(subject, new_secret=args.new_secret),
        ),
        Step(name="user secret", needs=("role", "instance secret"), act=lambda: stores.store_user_secret(subject)),
        Step(name="upload", needs=("role", "instance secret"), act=lambda: stores.upload(subject)),
        Step(name="download", needs=("upload",), act=lambda: stores.download(subject)),
    ]
    code = report(args.conn_id, take(steps), as_json=args.output == "json", show=print)
    if code == 0 and args.output != "json":
        print(f"\nSet up. `airflow panda check {args.conn_id}` tries the broker as well, and changes nothing.")
    sys.exit(code)


def _instance_secret(subject: Subject, *, new_secret: bool) -> Told:
    made = new_secret or not subject.connection.instance_secret
    if made:
        _store_in_connection(subject.conn_id, secrets.token_urlsafe(32))
        subject.forget()
    what = "made a new one and stored it in the connection" if made else "the connection has one"
    return ok(f"{what}; this Airflow is {subject.instance}")


def _store_in_connection(conn_id: str, secret: str) -> None:
    """Write the secret into the connection in Airflow's metadata database."""
    from airflow.models import Connection
    from airflow.utils.session import create_session

    with create_session() as session:
        row = session.query(Connection).filter(Connection.conn_id == conn_id).one_or_none()
        if row is None:
            raise ConfigurationError(
                f"connection {conn_id}",
                "it is not in Airflow's database (but in the environment or a secrets backend), where it cannot be "
                "changed from here",
                "Add an instance_secret of at least 32 random characters to its extra fields, then run this again",
            )
        row.extra = json.dumps({**row.extra_dejson, "instance_secret": secret})
