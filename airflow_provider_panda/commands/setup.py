"""``airflow panda setup CONN``: give an Airflow instance its secret, and PanDA's jobs what they need to report back."""

from __future__ import annotations

import json
import secrets
import sys
from argparse import Namespace

from airflow_provider_panda import configuration
from airflow_provider_panda.commands import read_connections_from_database
from airflow_provider_panda.exceptions import ConfigurationError, PandaProviderError
from airflow_provider_panda.grid.names import secret_name
from airflow_provider_panda.hooks.delivery import secret_delivery
from airflow_provider_panda.hooks.panda import PandaHook


def setup(args: Namespace) -> None:
    """Make the instance secret if there is none, store it in the connection and, with the broker, with PanDA.

    Nothing secret is printed. To be run again after the broker connection changed.
    """
    read_connections_from_database()
    try:
        _setup(args.conn_id, new_secret=args.new_secret)
    except PandaProviderError as error:
        sys.exit(f"panda setup: {error}")


def _setup(conn_id: str, *, new_secret: bool) -> None:
    connection = PandaHook(conn_id).get_conn()
    if new_secret or not connection.instance_secret:
        _store_in_connection(conn_id, secrets.token_urlsafe(32))
        connection = PandaHook(conn_id).get_conn()
        print(f"{conn_id}: made a new instance secret and stored it in the connection")
    instance = configuration.instance(connection.instance_secret, conn_id=conn_id)
    name = secret_name(instance)
    if connection.signing == "archive":
        print(f"{conn_id}: signing is 'archive', so PanDA keeps no secret for instance {instance}")
        return
    PandaHook(conn_id).grid().set_secret(name, secret_delivery(connection))
    broker = f"the broker of {connection.broker_conn_id}" if connection.broker_conn_id else "no broker"
    print(f"{conn_id}: stored user secret {name} with PanDA ({broker}); this Airflow is instance {instance}")


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
