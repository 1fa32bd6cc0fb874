"""What a job needs to publish, as JSON: the object of the user secret, and of ``delivery.json`` in an archive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from airflow_provider_panda.broker.endpoint import BrokerEndpoint


def broker_settings(endpoint: BrokerEndpoint) -> dict[str, Any]:
    """Return the publish-only broker settings of a connection.

    :raises OSError: the file of CA certificates cannot be read.
    """
    login = endpoint.publisher_login or endpoint.login
    passcode = endpoint.publisher_passcode if endpoint.publisher_login else endpoint.passcode
    tls: bool | dict[str, str | None] = False
    if endpoint.tls is not None:
        tls = {"ca": Path(endpoint.tls.ca_file).read_text() if endpoint.tls.ca_file else None}
    return {
        "addresses": [[host, port] for host, port in endpoint.addresses],
        "login": login,
        "passcode": passcode,
        "tls": tls,
        "destination": endpoint.result_destination,
    }


def user_secret(instance_secret: str, endpoint: BrokerEndpoint | None) -> str:
    """Return the text of the PanDA user secret by which jobs sign and publish (``signing="secret"``)."""
    broker = None if endpoint is None else broker_settings(endpoint)
    return json.dumps({"version": 1, "instance_secret": instance_secret, "broker": broker}, sort_keys=True)
