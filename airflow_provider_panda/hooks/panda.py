"""The PanDA connection: its fields, what they mean, and the grid that they lead to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal
from urllib.parse import urlsplit

from airflow.providers.common.compat.sdk import BaseHook

from airflow_provider_panda.exceptions import ConfigurationError, PandaProviderError
from airflow_provider_panda.grid.addresses import encrypted_or_local
from airflow_provider_panda.grid.endpoint import TOKEN_KINDS, AuthKind, PandaEndpoint, auth_config_url
from airflow_provider_panda.grid.idds.endpoint import IddsEndpoint
from airflow_provider_panda.grid.parameters import TRANSFORM_URL, GridDefaults
from airflow_provider_panda.hooks.lookup import alook_up, amask, extras_of, look_up, mask
from airflow_provider_panda.payload.envelope import derive_key

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

    from airflow_provider_panda.grid.idds.client import IddsClient
    from airflow_provider_panda.grid.idds.runs import IddsGrid
    from airflow_provider_panda.grid.panda import PandaGrid
    from airflow_provider_panda.grid.retry import RetryPolicy

TIMEOUT: Final = 60.0
"""Default deadline of one call, in seconds."""

EXTRAS: Final = frozenset(
    {
        "cache_url", "vo", "auth", "token_file", "refresh_token", "auth_config_url", "proxy_file", "queue", "cloud",
        "working_group", "transform_url",
        "service", "idds_host", "broker_conn_id", "signing", "instance_secret", "monitor_url", "result_store",
        "verify_host", "ca_path", "timeout",
    }
)  # fmt: skip
"""Extra fields of a connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PandaConnection:
    """A PanDA connection of Airflow, checked.

    :param conn_id: its id.
    :param endpoint: where the server is and who asks.
    :param service: whether tasks go to PanDA directly or through iDDS.
    :param queue: default PanDA queue.
    :param cloud: default PanDA cloud.
    :param working_group: default PanDA working group.
    :param transform_url: URL of the transform that runs shell lines.
    :param idds_host: base URL of iDDS, or None for the one that the PanDA server knows.
    :param broker_conn_id: connection of type stomp that results come by, or None: PanDA's own record only.
    :param signing: how the signing key reaches a job: by PanDA user secret, or in the archive.
    :param instance_secret: what signing keys are derived from; never in ``repr``.
    :param monitor_url: base URL of the monitor, for links.
    :param result_store: where results go that are too large for a message.
    """

    conn_id: str
    endpoint: PandaEndpoint
    service: Literal["panda", "idds"] = "panda"
    queue: str | None = None
    cloud: str | None = None
    working_group: str | None = None
    transform_url: str = TRANSFORM_URL
    idds_host: str | None = None
    broker_conn_id: str | None = None
    signing: Literal["secret", "archive"] = "secret"
    instance_secret: str | None = field(default=None, repr=False)
    monitor_url: str | None = None
    result_store: str | None = None

    @property
    def signing_secret(self) -> str:
        """The instance secret, where results are to be signed or verified.

        :raises ConfigurationError: it is empty, so that anybody could derive the keys of its tasks.
        """
        if not self.instance_secret:
            raise ConfigurationError(
                f"connection {self.conn_id}, field instance_secret",
                "it is empty, so results could not be verified",
                f"Run `airflow panda setup {self.conn_id}`",
            )
        return self.instance_secret

    def signing_key(self, task_key: str) -> bytes:
        """Return the key that signs the results of one task.

        :raises ConfigurationError: the instance secret is empty.
        """
        return derive_key(self.signing_secret, task_key)

    def key_mark(self, task_key: str) -> str:
        """Return what tells whether two connections sign a task's results with the same key, and tells nothing else.

        :raises ConfigurationError: the instance secret is empty.
        """
        return hashlib.sha256(b"mark of " + self.signing_key(task_key)).hexdigest()[:12]

    @property
    def idds(self) -> IddsEndpoint:
        """Which iDDS its tasks go through where ``service`` is idds."""
        return IddsEndpoint(panda=self.endpoint, host=self.idds_host)

    @property
    def defaults(self) -> GridDefaults:
        """What tasks get that do not say it themselves."""
        return GridDefaults(
            queue=self.queue,
            cloud=self.cloud,
            working_group=self.working_group,
            transform_url=self.transform_url,
        )


class _Fields:
    """The fields of one connection, read one by one with an error that names the field."""

    def __init__(self, conn_id: str, extra: Mapping[str, Any]) -> None:
        self._conn_id = conn_id
        self._extra = extra

    def wrong(self, name: str, problem: str, remedy: str) -> ConfigurationError:
        return ConfigurationError(f"connection {self._conn_id}, field {name}", problem, remedy)

    def text(self, name: str) -> str | None:
        value = self._extra.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.wrong(name, f"it is a {type(value).__name__}, not text", "Give it as text")
        return value.strip() or None

    def choice(self, name: str, choices: tuple[str, ...], default: str) -> str:
        value = self.text(name) or default
        if value not in choices:
            raise self.wrong(name, f"{value!r} is unknown", f"Choose one of {', '.join(choices)}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = self._extra.get(name)
        if value is None or value == "":
            return default
        if isinstance(value, bool):
            return value
        known = {
            "true": True,
            "yes": True,
            "on": True,
            "1": True,
            "false": False,
            "no": False,
            "off": False,
            "0": False,
        }
        if str(value).strip().lower() not in known:
            raise self.wrong(name, f"{value!r} is neither true nor false", "Give true or false")
        return known[str(value).strip().lower()]

    def seconds(self, name: str, default: float) -> float:
        value = self._extra.get(name)
        if value is None or value == "":
            return default
        try:
            seconds = float(value)
        except (TypeError, ValueError):
            seconds = -1.0
        if isinstance(value, bool) or not 0 < seconds <= 600:
            raise self.wrong(name, f"{value!r} is no time", "Give seconds, more than 0 and at most 600")
        return seconds

    def url(self, name: str, value: str | None) -> str | None:
        return None if value is None else self.checked_url(name, value)

    def store(self, name: str) -> str | None:
        """Return the URL of a result store: it stands in task parameters, so it may hold no login."""
        value = self.text(name)
        if value is None or value.startswith("file:///"):
            return value
        if not value.startswith(("http://", "https://")):
            raise self.wrong(
                name,
                f"{_without_login(value)!r} is no place of results",
                "Give an http(s):// URL that takes PUT, or file:///folder",
            )
        return self.checked_url(name, value)

    def checked_url(self, name: str, value: str) -> str:
        try:
            parts = urlsplit(value)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            usable = False
        if not usable:
            raise self.wrong(
                name, f"{_without_login(value)!r} is no URL", "Give one like https://pandaserver-doma.cern.ch:443"
            )
        if parts.username or parts.password:
            raise self.wrong(name, "it holds a login", "Leave it out: the token goes into the password field")
        return value.rstrip("/")


def parse(
    conn_id: str,
    *,
    host: str | None,
    schema: str | None = None,
    port: int | None = None,
    password: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> PandaConnection:
    """Return a checked connection from its fields.

    :param conn_id: id of the connection.
    :param host: full URL of the server, or its host name.
    :param schema: ``https`` (default) or ``http``, if ``host`` is a name.
    :param port: port, if ``host`` does not say it.
    :param password: OIDC id token.
    :param extra: the other fields, see :data:`EXTRAS`.
    :raises ConfigurationError: a field is missing or wrong.
    """
    fields = _Fields(conn_id, extra or {})
    service = fields.choice("service", ("panda", "idds"), "panda")
    signing = fields.choice("signing", ("secret", "archive"), "secret" if service == "panda" else "archive")
    if service == "idds" and signing == "secret":
        raise fields.wrong(
            "signing", "jobs that come through iDDS get no user secrets", "Set it to archive, or service to panda"
        )
    return PandaConnection(
        conn_id=conn_id,
        endpoint=_endpoint(fields, _server(fields, host, schema, port), (password or "").strip() or None),
        service="idds" if service == "idds" else "panda",
        queue=fields.text("queue"),
        cloud=fields.text("cloud"),
        working_group=fields.text("working_group"),
        transform_url=fields.url("transform_url", fields.text("transform_url")) or TRANSFORM_URL,
        idds_host=fields.url("idds_host", fields.text("idds_host")),
        broker_conn_id=fields.text("broker_conn_id"),
        signing="archive" if signing == "archive" else "secret",
        instance_secret=fields.text("instance_secret"),
        monitor_url=fields.url("monitor_url", fields.text("monitor_url")),
        result_store=fields.store("result_store"),
    )


def _server(fields: _Fields, host: str | None, schema: str | None, port: int | None) -> str:
    host = (host or "").strip()
    port = port or None  # Airflow's form stores an empty port as 0
    if not host:
        raise fields.wrong("host", "it is empty", "Give the URL of the PanDA server, https://host:port")
    if "://" not in host:
        scheme = (schema or "https").strip().lower()
        if scheme not in ("http", "https"):
            raise fields.wrong("schema", f"{scheme!r} is unknown", "Choose http or https, or give a full URL as host")
        host = f"{scheme}://{host}"
    parts = urlsplit(fields.checked_url("host", host))
    if parts.port is None and port is not None:
        return f"{parts.scheme}://{parts.netloc}:{port}"
    if parts.port is not None and port is not None and parts.port != port:
        raise fields.wrong("port", f"it is {port}, but the host says {parts.port}", "Leave one of them out")
    return f"{parts.scheme}://{parts.netloc}"


def _endpoint(fields: _Fields, url: str, token: str | None) -> PandaEndpoint:
    token_file, refresh_token = fields.text("token_file"), fields.text("refresh_token")
    proxy_file, vo = fields.text("proxy_file"), fields.text("vo")
    likely = AuthKind.NONE
    for given, kind in (
        (proxy_file, AuthKind.X509),
        (token_file, AuthKind.TOKEN_FILE),
        (token, AuthKind.TOKEN),
        (refresh_token, AuthKind.REFRESH),
    ):
        likely = kind if given else likely
    auth = AuthKind(fields.choice("auth", tuple(kind.value for kind in AuthKind), likely.value))
    if auth is AuthKind.TOKEN and not token:
        raise fields.wrong("password", "auth is token, and there is none", "Put an OIDC id token there")
    if auth is AuthKind.TOKEN_FILE and not token_file:
        raise fields.wrong(
            "token_file", "auth is token_file, and there is none", "Give the path of a file with a token"
        )
    if auth is AuthKind.REFRESH and not (refresh_token or token_file):
        raise fields.wrong(
            "refresh_token", "auth is refresh, and there is none", "Give a refresh token, or its file as token_file"
        )
    if auth is AuthKind.X509:
        if not proxy_file:
            raise fields.wrong("proxy_file", "auth is x509, and there is none", "Give the path of a PEM file")
        if not url.startswith("https:"):
            raise fields.wrong("host", "a certificate proves nothing over http", "Give an https URL, or another auth")
    if auth in TOKEN_KINDS and not vo:
        raise fields.wrong("vo", "PanDA takes no token without a VO", "Give it, such as wlcg or wlcg.production")
    endpoint = PandaEndpoint(
        url=url,
        cache_url=fields.url("cache_url", fields.text("cache_url")),
        auth=auth,
        token=token if auth is AuthKind.TOKEN else None,
        token_file=token_file if auth in (AuthKind.TOKEN_FILE, AuthKind.REFRESH) else None,
        refresh_token=refresh_token if auth is AuthKind.REFRESH else None,
        auth_config_url=fields.url("auth_config_url", fields.text("auth_config_url")),
        proxy_file=proxy_file if auth is AuthKind.X509 else None,
        vo=vo or "",
        verify_host=fields.flag("verify_host", True),
        ca_path=fields.text("ca_path"),
        timeout=fields.seconds("timeout", TIMEOUT),
    )
    # Said here once and for all: iDDS is asked with the same token at another address.
    issuer = auth_config_url(endpoint) if auth in TOKEN_KINDS else None
    return replace(endpoint, auth_config_url=issuer)


def concerns(connection: PandaConnection, extra: Mapping[str, Any]) -> list[str]:
    """Return what is allowed in a connection but hardly meant, in sentences."""
    endpoint, told = connection.endpoint, []
    unknown = sorted(set(extra) - EXTRAS)
    if unknown:
        told.append(f"unknown extra fields are ignored: {', '.join(unknown)}")
    urls = [endpoint.url, endpoint.cache_url, endpoint.auth_config_url, connection.idds_host]
    if endpoint.auth in TOKEN_KINDS and not all(encrypted_or_local(url) for url in urls if url):
        told.append("the token travels unencrypted; use https")
    if not endpoint.verify_host:
        told.append("verify_host is off: any server can pretend to be PanDA; give ca_path instead")
    return [f"connection {connection.conn_id}: {sentence}" for sentence in told]


def _without_login(url: str) -> str:
    return url.rpartition("@")[2]


class PandaHook(BaseHook):
    """Leads from a connection of type ``panda`` to the grid.

    :param panda_conn_id: id of the connection.
    """

    conn_name_attr: ClassVar[str] = "panda_conn_id"
    default_conn_name: ClassVar[str] = "panda_default"
    conn_type: ClassVar[str] = "panda"
    hook_name: ClassVar[str] = "PanDA"

    def __init__(self, panda_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.panda_conn_id = panda_conn_id
        self._connection: PandaConnection | None = None

    def get_conn(self) -> PandaConnection:
        """Return the connection, checked; looked up once, for each look is a request to Airflow's API.

        :raises ConfigurationError: a field is missing or wrong.
        """
        if self._connection is None:
            connection, extra = _read(look_up(self.panda_conn_id))
            mask(_secrets(connection))
            self._warn(connection, extra)
            self._connection = connection
        return self._connection

    def grid(self, *, policy: RetryPolicy | None = None) -> PandaGrid:
        """Return the tasks of this connection's identity on its server.

        :param policy: how often a call is made that failed for a reason that may pass; None: for minutes.
        """
        from airflow_provider_panda.grid.panda import PandaGrid

        connection = self.get_conn()
        return PandaGrid(connection.endpoint, defaults=connection.defaults, policy=policy)

    def idds(self) -> IddsClient:
        """Return the iDDS of this connection: its own, or the one that the PanDA server relays to."""
        from airflow_provider_panda.grid.idds.client import IddsClient

        return IddsClient(self.get_conn().idds)

    def idds_grid(self) -> IddsGrid:
        """Return the tasks of this connection's identity that iDDS coordinates."""
        from airflow_provider_panda.grid.idds.runs import IddsGrid

        return IddsGrid(self.idds(), self.grid(), secret=self.get_conn().signing_secret)

    @classmethod
    async def aget(cls, conn_id: str) -> PandaConnection:
        """Return a connection, checked, from a trigger.

        :raises ConfigurationError: a field is missing or wrong.
        """
        connection, extra = _read(await alook_up(conn_id))
        await amask(_secrets(connection))
        cls(conn_id)._warn(connection, extra)
        return connection

    def test_connection(self) -> tuple[bool, str]:
        """Try the connection for the UI: is the server alive, and does it accept the credentials."""
        try:
            return True, self.grid().check()
        except PandaProviderError as error:
            return False, str(error)

    def _warn(self, connection: PandaConnection, extra: Mapping[str, Any]) -> None:
        for concern in concerns(connection, extra):
            self.log.warning("%s", concern)


def _read(row: Connection) -> tuple[PandaConnection, Mapping[str, Any]]:
    extra = extras_of(row)
    connection = parse(
        row.conn_id or "?", host=row.host, schema=row.schema, port=row.port, password=row.password, extra=extra
    )
    return connection, extra


def _secrets(connection: PandaConnection) -> list[str]:
    endpoint = connection.endpoint
    return [secret for secret in (endpoint.token, endpoint.refresh_token, connection.instance_secret) if secret]
