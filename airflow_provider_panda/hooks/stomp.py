"""The Airflow connection type ``stomp``: fields to :class:`BrokerEndpoint`, and its Test button."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from airflow.providers.common.compat.sdk import BaseHook

from airflow_provider_panda.broker.endpoint import BrokerEndpoint, BrokerTLS
from airflow_provider_panda.exceptions import ConfigurationError, PandaProviderError
from airflow_provider_panda.hooks.lookup import alook_up, amask, extras_of, look_up, mask

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

DEFAULT_PORT: Final = 61613
DEFAULT_TLS_PORT: Final = 61612
DEFAULT_CONN_ID: Final = "stomp_default"

HEARTBEAT_RANGE: Final = (0.5, 300.0)
"""Seconds."""

_ADDRESS: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\[\]\s/@]+)(?::(?P<port>\d{1,5}))?")
_DEFAULTS: Final = BrokerEndpoint(addresses=())
_TRUE: Final = ("true", "1", "yes", "on")
_FALSE: Final = ("", "false", "0", "no", "off")


def parse(
    conn_id: str,
    *,
    host: str | None,
    port: int | None,
    login: str | None,
    password: str | None,
    extra: Mapping[str, Any],
) -> BrokerEndpoint:
    """Return the broker that the fields of a connection name.

    :param conn_id: id of the connection, for messages.
    :param host: one or more ``host:port``, comma separated.
    :param port: port of the hosts that name none; None: 61613, with TLS 61612.
    :param login: user that may subscribe.
    :param password: its password.
    :param extra: the fields of the form: ``tls``, ``ca_file``, ``cert_file``, ``key_file``, ``result_destination``,
        ``status_destination``, ``heartbeat`` (seconds), ``publisher_login``, ``publisher_password``.
    :raises ConfigurationError: a field is wrong.
    """
    fields = _Fields(conn_id, extra)
    if password and not login:
        raise fields.wrong("login", "it is empty, but a password is given", "Enter the user, or remove the password")
    publisher_login, publisher_passcode = fields.text("publisher_login"), fields.text("publisher_password")
    if bool(publisher_login) != bool(publisher_passcode):
        raise fields.wrong(
            "publisher_login",
            "it goes together with publisher_password, and only one of the two is given",
            "Enter both, or neither: workers then use the login of the connection",
        )
    tls = _tls(fields)
    status = fields.text("status_destination")
    return BrokerEndpoint(
        addresses=_addresses(fields, host, port or (DEFAULT_TLS_PORT if tls else DEFAULT_PORT)),
        login=login or None,
        passcode=password or None,
        tls=tls,
        result_destination=_topic(
            fields, "result_destination", fields.text("result_destination") or _DEFAULTS.result_destination
        ),
        status_destination=None if status is None else _topic(fields, "status_destination", status),
        heartbeat=fields.number("heartbeat", _DEFAULTS.heartbeat, *HEARTBEAT_RANGE),
        publisher_login=publisher_login,
        publisher_passcode=publisher_passcode,
    )


class _Fields:
    """Fields of one connection, read with errors that name them."""

    def __init__(self, conn_id: str, extra: Mapping[str, Any]) -> None:
        self._conn_id, self._extra = conn_id, extra

    def wrong(self, field: str, problem: str, remedy: str) -> ConfigurationError:
        return ConfigurationError(f"connection {self._conn_id}, field {field}", problem, remedy)

    def text(self, field: str) -> str | None:
        value = self._extra.get(field)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.wrong(field, f"it is a {type(value).__name__}", "Enter text")
        return value.strip() or None

    def number(self, field: str, default: float, least: float, most: float) -> float:
        value = self._extra.get(field)
        if value is None or value == "":
            return default
        try:
            number = float("nan") if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if not least <= number <= most:
            raise self.wrong(field, f"{value!r} is no number from {least:g} to {most:g}", "Enter seconds")
        return number

    def flag(self, field: str) -> bool:
        value = self._extra.get(field)
        if value is None or isinstance(value, bool):
            return bool(value)
        text = str(value).strip().lower()
        if text not in _TRUE + _FALSE:
            raise self.wrong(field, f"{value!r} is neither true nor false", "Enter true or false")
        return text in _TRUE


def _addresses(fields: _Fields, host: str | None, default_port: int) -> tuple[tuple[str, int], ...]:
    remedy = "Enter host:port, several separated by commas, such as broker1.example.org:61613,broker2.example.org"
    parts = [part.strip() for part in (host or "").split(",") if part.strip()]
    if not parts:
        raise fields.wrong("host", "it is empty", remedy)
    addresses = []
    for part in parts:
        match = _ADDRESS.fullmatch(part)
        port = int(match["port"] or default_port) if match else 0
        if match is None or not 0 < port < 65536:
            raise fields.wrong("host", f"{part.rsplit('@', 1)[-1]!r} is no host:port", remedy)
        addresses.append((match["host"].strip("[]"), port))
    return tuple(dict.fromkeys(addresses))


def _tls(fields: _Fields) -> BrokerTLS | None:
    files = {name: fields.text(name) for name in ("ca_file", "cert_file", "key_file")}
    if not fields.flag("tls"):
        given = [name for name, value in files.items() if value]
        if given:
            raise fields.wrong(given[0], "it is given, but tls is off", "Turn tls on, or remove the file")
        return None
    if files["key_file"] and not files["cert_file"]:
        raise fields.wrong("cert_file", "it is empty, but key_file is given", "Enter the client certificate as well")
    return BrokerTLS(**files)


def _topic(fields: _Fields, field: str, destination: str) -> str:
    if not re.fullmatch(r"/topic/[^\s/][^\s]*", destination):
        raise fields.wrong(
            field,
            f"{destination!r} is no topic",
            "Enter /topic/<name>: of a queue each message reaches one consumer only, and several triggerers may listen",
        )
    return destination


class StompHook(BaseHook):
    """A STOMP broker, as results and status messages need it.

    :param stomp_conn_id: id of the connection.
    """

    conn_name_attr = "stomp_conn_id"
    default_conn_name = DEFAULT_CONN_ID
    conn_type = "stomp"
    hook_name = "STOMP broker"

    def __init__(self, stomp_conn_id: str = DEFAULT_CONN_ID) -> None:
        super().__init__()
        self.stomp_conn_id = stomp_conn_id

    def get_conn(self) -> BrokerEndpoint:
        """Return the broker that the connection names.

        :raises ConfigurationError: a field is wrong.
        """
        endpoint = _endpoint(look_up(self.stomp_conn_id))
        mask((endpoint.passcode, endpoint.publisher_passcode))
        return endpoint

    @classmethod
    async def aget(cls, conn_id: str) -> BrokerEndpoint:
        """Return the broker that a connection names, without blocking the loop.

        :raises ConfigurationError: a field is wrong.
        """
        endpoint = _endpoint(await alook_up(conn_id))
        await amask((endpoint.passcode, endpoint.publisher_passcode))
        return endpoint

    def test_connection(self) -> tuple[bool, str]:
        """Connect to every address, subscribe, publish to ourselves and wait for it: the Test button."""
        from airflow_provider_panda.broker.selftest import summary, try_out

        try:
            return summary(try_out(self.get_conn()))
        except PandaProviderError as error:
            return False, str(error)


def _endpoint(connection: Connection) -> BrokerEndpoint:
    return parse(
        connection.conn_id or "?",
        host=connection.host,
        port=connection.port,
        login=connection.login,
        password=connection.password,
        extra=extras_of(connection),
    )
