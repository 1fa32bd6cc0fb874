"""What the jobs behind a PanDA connection need to deliver results: the connection's broker and its signing key."""

from __future__ import annotations

from airflow_provider_panda.broker.endpoint import BrokerEndpoint
from airflow_provider_panda.hooks.panda import PandaConnection
from airflow_provider_panda.hooks.stomp import StompHook
from airflow_provider_panda.payload.delivery import broker_settings, user_secret
from airflow_provider_panda.payload.package import Delivery


def secret_delivery(connection: PandaConnection) -> str:
    """Return the text of the PanDA user secret of this Airflow instance (``signing = secret``)."""
    return user_secret(connection.signing_secret, _broker(connection))


def archive_delivery(connection: PandaConnection, task_key: str) -> Delivery:
    """Return what an archive carries for one task (``signing = archive``): a key that is good for that task only."""
    broker = _broker(connection)
    return Delivery(
        signing_key=connection.signing_key(task_key),
        broker=None if broker is None else broker_settings(broker),
    )


def _broker(connection: PandaConnection) -> BrokerEndpoint | None:
    return StompHook(connection.broker_conn_id).get_conn() if connection.broker_conn_id else None
