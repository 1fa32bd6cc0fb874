"""What a worker node needs to deliver results: broker address, publish-only login and a key to sign with."""

from __future__ import annotations

import json
from typing import Any

from airflow_provider_panda.broker.endpoint import BrokerEndpoint
from airflow_provider_panda.hooks.panda import PandaConnection
from airflow_provider_panda.hooks.stomp import StompHook
from airflow_provider_panda.payload import envelope

VERSION = 1


def secret_delivery(connection: PandaConnection) -> str:
    """Return the text of the PanDA user secret of this Airflow instance (``signing = secret``)."""
    return json.dumps({**_broker(connection), "version": VERSION, "instance_secret": connection.instance_secret})


def archive_delivery(connection: PandaConnection, task_key: str) -> dict[str, Any]:
    """Return what an archive carries for one task (``signing = archive``): a key that is good for that task only."""
    key = envelope.derive_key(connection.instance_secret or "", task_key)
    return {**_broker(connection), "version": VERSION, "signing_key": key.hex()}


def _broker(connection: PandaConnection) -> dict[str, Any]:
    if not connection.broker_conn_id:
        return {"broker": None}
    endpoint: BrokerEndpoint = StompHook(connection.broker_conn_id).get_conn()
    publish_only = endpoint.publisher_login is not None
    tls: bool | dict[str, Any] = endpoint.tls is not None
    if endpoint.tls is not None and endpoint.tls.ca_file:
        with open(endpoint.tls.ca_file, encoding="ascii") as file:
            tls = {"ca": file.read()}
    return {
        "broker": {
            "addresses": [list(address) for address in endpoint.addresses],
            "login": endpoint.publisher_login if publish_only else endpoint.login,
            "passcode": endpoint.publisher_passcode if publish_only else endpoint.passcode,
            "tls": tls,
            "destination": endpoint.result_destination,
        }
    }
