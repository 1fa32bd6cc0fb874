"""How both hooks look a connection up and read its extra fields, in a worker and in a triggerer.

Not ``Connection.extra_dejson``: it takes broken JSON for empty, and masks with a call that blocks a trigger's loop.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_provider_panda.exceptions import ConfigurationError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection


def look_up(conn_id: str) -> Connection:
    """Return a connection of Airflow.

    :raises ConfigurationError: there is none of that id.
    """
    try:
        return BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        raise _missing(conn_id) from None


async def alook_up(conn_id: str) -> Connection:
    """Return a connection of Airflow without blocking the loop.

    :raises ConfigurationError: there is none of that id.
    """
    from airflow.providers.common.compat.connection import get_async_connection

    try:
        return await get_async_connection(conn_id)
    except AirflowNotFoundException:
        raise _missing(conn_id) from None


def _missing(conn_id: str) -> ConfigurationError:
    return ConfigurationError(
        f"connection {conn_id}", "Airflow has none of that id", "Make it under Admin, Connections (docs/connections.md)"
    )


def extras_of(connection: Connection) -> dict[str, Any]:
    """Return the extra fields of a connection.

    :raises ConfigurationError: they are no JSON object.
    """
    try:
        extra = json.loads(connection.extra) if connection.extra else {}
    except ValueError:
        extra = None
    if not isinstance(extra, dict):
        raise ConfigurationError(
            f"connection {connection.conn_id}, field extra",
            "it is no JSON object",
            "Correct it, or fill in the fields one by one",
        )
    return extra


def mask(secrets: Iterable[str | None]) -> None:
    """Have Airflow hide these texts in logs."""
    from airflow.providers.common.compat.sdk import mask_secret

    for secret in filter(None, secrets):
        mask_secret(secret)


async def amask(secrets: Iterable[str | None]) -> None:
    """Have Airflow hide these texts in logs, without blocking the loop."""
    from airflow.sdk.log import amask_secret

    for secret in filter(None, secrets):
        await amask_secret(secret)
