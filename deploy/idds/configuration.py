"""The configuration files of an iDDS, written from one value."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PREFIX = "IDDS_DEPLOY_"
"""Of the environment variables that :func:`from_environment` reads."""


@dataclass(frozen=True)
class Configuration:
    """Everything an iDDS is told.

    :param folder: where configuration, logs and cached files go.
    :param database_url: ``postgresql://user:password@host:port/name``.
    :param rest_url: URL of the REST service, as clients see it.
    :param broker: ``host:port`` of the STOMP broker.
    :param broker_login: its user, with all rights; iDDS hands it and the passcode to every authenticated user.
    :param panda_url: base URL of the PanDA server, without ``/server/panda``.
    :param panda_vo: Origin of the agents' calls of PanDA: ``vo`` or ``vo:role``.
    :param vos: virtual organisations whose tokens are accepted.
    :param oidc_config_url: where the issuer of these tokens describes itself; None: no tokens.
    :param audience: audience, and client id, of these tokens.
    :param allow_users: parts of DNs, one of which a DN must contain (auth type x509_proxy).
    :param super_users: user names, or parts of DNs, that may act for other users, as the PanDA server does.
    :param result_destination: where iDDS's jobs publish results, and iDDS its own messages.
    :param status_destination: where PanDA publishes the states of tasks and jobs.
    :param store_results: whether iDDS stores the results that pass the broker. Not so by default in iDDS.
    :param schema: schema of the tables.
    """

    folder: Path
    database_url: str = field(repr=False)
    rest_url: str
    broker: str
    broker_login: str
    broker_passcode: str = field(repr=False)
    panda_url: str
    panda_vo: str = "wlcg:production"
    vos: tuple[str, ...] = ("wlcg", "panda_dev")
    oidc_config_url: str | None = None
    audience: str = ""
    allow_users: tuple[str, ...] = ("DC=local",)
    super_users: tuple[str, ...] = ("PanDA Relay", "/DC=local/CN=Panda Relay")
    result_destination: str = "/topic/doma.idds"
    status_destination: str = "/topic/panda_idds"
    store_results: bool = True
    schema: str = "doma_idds"

    @property
    def ready_file(self) -> Path:
        """File that exists while all agents run."""
        return self.folder / "agents.ready"

    @property
    def etc(self) -> Path:
        """Folder of the configuration files."""
        return self.folder / "etc"

    def environment(self) -> dict[str, str]:
        """Return the variables that tell iDDS where its files are, and panda-client where PanDA is.

        The agents' token (``PANDA_AUTH_ID_TOKEN``) is for the caller to add.
        """
        base = f"{self.panda_url.rstrip('/')}/server/panda"
        return {
            "IDDS_CONFIG": str(self.etc / "idds.cfg"),
            "IDDS_AUTH_CONFIG": str(self.etc / "auth.cfg"),
            "IDDS_PANDA_CONFIG": str(self.etc / "panda.cfg"),
            "ALEMBIC_CONFIG": str(self.etc / "alembic.ini"),
            "HOME": str(self.folder / "home"),
            "PANDA_URL": base,
            "PANDA_URL_SSL": base,
            "PANDACACHE_URL": base,
            "PANDA_AUTH": "oidc",
            "PANDA_AUTH_VO": self.panda_vo,
            "PANDA_VERIFY_HOST": "off",
            "PANDA_BEHIND_REAL_LB": "true",
            "PANDA_CONFIG_ROOT": str(self.folder / "home" / ".panda"),
        }

    def write(self) -> None:
        """Write all files, readable by the owner only, and make the folders that they name."""
        for name in ("etc", "logs", "cacher", "home/.panda"):
            (self.folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        texts = {
            "idds.cfg": ini(idds_sections(self)),
            "auth.cfg": ini(auth_sections(self)),
            "panda.cfg": ini(panda_sections(self)),
            "alembic.ini": ini(alembic_sections(self)),
        }
        for name, text in texts.items():
            path = self.etc / name
            path.unlink(missing_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(text)


Sections = Mapping[str, Mapping[str, Any]]


def ini(sections: Sections) -> str:
    """Return the text of a configuration file, as Python's configparser reads it back."""
    lines: list[str] = []
    for section, options in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{name} = {str(value).replace('%', '%%')}" for name, value in options.items()]
        lines.append("")
    return "\n".join(lines)


def idds_sections(conf: Configuration) -> Sections:
    """Return what idds.cfg says: short periods everywhere, so that a request moves within seconds."""

    def channel(destination: str) -> dict[str, Any]:
        return {
            "brokers": [conf.broker],
            "destination": destination,
            "username": conf.broker_login,
            "password": conf.broker_passcode,
            "broker_timeout": 360,
        }

    receives = {"default": channel(conf.status_destination)}
    if conf.store_results:
        # Not the destination but this name makes the receiver store results (facts/idds.md section 5).
        receives["asyncresult"] = channel(conf.result_destination)
    sends = {"default": channel(conf.result_destination), "ContentExt": channel("/queue/idds.content_ext")}
    scans = {
        "poll_period": 5,
        "new_poll_period": 1,
        "update_poll_period": 5,
        "max_new_poll_period": 5,
        "max_update_poll_period": 5,
        "poll_time_period": 5,
        "poll_operation_time_period": 5,
        "max_number_workers": 4,
    }
    panda = "idds.agents.carrier.plugins.panda.PandaSubmitterPoller"
    messaging = "idds.agents.common.plugins.messaging"
    return {
        "common": {"loglevel": "INFO", "logdir": conf.folder / "logs", "num_threads": 4},
        "database": {
            "default": conf.database_url,
            "schema": conf.schema,
            "pool_size": 10,
            "max_overflow": 20,
            "pool_recycle": 3600,
            "echo": 0,
            "pool_reset_on_return": "rollback",
        },
        "rest": {"host": conf.rest_url, "cacher_dir": conf.folder / "cacher"},
        "main": {"agents": "clerk, transformer, submitter, poller, receiver, trigger, finisher, conductor"},
        "eventbus": {"backend": "default"},
        "clerk": {
            **scans,
            # It reads no command (close, abort) while all its workers look at open requests, and the work of a killed
            # PanDA task keeps its request open: with 4 workers, 20 such requests delay a closing for ever.
            "max_number_workers": 16,
            "throttle_poll_period": 5,
            "new_command_poll_period": 1,
            "update_command_poll_period": 5,
            "retrieve_bulk_size": 32,
        },
        "transformer": {
            **scans,
            "retrieve_bulk_size": 64,
            "message_bulk_size": 1000,
            "domapandawork.num_retries": 0,
        },
        "carrier": {
            **scans,
            "num_threads": 4,
            "trigger_max_number_workers": 4,
            "finisher_max_number_workers": 4,
            "receiver_num_threads": 2,
            "bulk_message_delay": 1,
            "update_poll_period_for_new_task": 5,
            "new_fail_poll_period": 5,
            "retrieve_bulk_size": 16,
            "message_bulk_size": 1000,
            "plugin.receiver": f"{messaging}.MessagingReceiver",
            "plugin.receiver.channels": json.dumps(receives),
            "domapandawork.num_retries": 0,
            "domapandawork.poll_panda_jobs_chunk_size": 2000,
            "plugin.iwork_submitter": panda,
            "plugin.iwork_poller": panda,
            "plugin.iworkflow_submitter": panda,
            "plugin.iworkflow_poller": panda,
        },
        "conductor": {
            "delay": 120,
            "interval_delay": 1,
            "replay_times": 2,
            "threshold_to_release_messages": 1000,
            "random_delay": 5,
            "plugin.notifier": f"{messaging}.MessagingSender",
            "plugin.notifier.channels": json.dumps(sends),
        },
        "asyncresult": {
            "broker_type": "activemq",
            "brokers": conf.broker,
            "broker_destination": conf.result_destination,
            "broker_timeout": 360,
            "broker_username": conf.broker_login,
            "broker_password": conf.broker_passcode,
        },
    }


def auth_sections(conf: Configuration) -> Sections:
    """Return what auth.cfg says. iDDS does not strip the items of its lists."""
    sections: dict[str, Mapping[str, Any]] = {
        "common": {"allow_vos": ",".join(conf.vos), "cache_time": 3600},
        "Users": {"allow_users": ",".join(conf.allow_users), "super_users": ",".join(conf.super_users)},
    }
    if conf.oidc_config_url:
        for vo in conf.vos:
            sections[vo] = {
                "vo": vo,
                "oidc_config_url": conf.oidc_config_url,
                "client_id": conf.audience,
                "audience": conf.audience,
            }
    return sections


def panda_sections(conf: Configuration) -> Sections:
    """Return what panda.cfg says; the environment says the same and goes first."""
    names = {name.lower(): value for name, value in conf.environment().items() if name.startswith("PANDA")}
    return {"panda": {**names, "panda_monitor_url": conf.panda_url}}


def alembic_sections(conf: Configuration) -> Sections:
    """Return what alembic.ini says: iDDS's migrations, and logging as its env.py demands."""
    return {
        "alembic": {
            "script_location": "idds.orm.base:alembic",
            "sqlalchemy.url": conf.database_url,
            "version_table_schema": conf.schema,
        },
        "loggers": {"keys": "root"},
        "handlers": {"keys": "console"},
        "formatters": {"keys": "plain"},
        "logger_root": {"level": "WARN", "handlers": "console"},
        "handler_console": {"class": "StreamHandler", "args": "(sys.stderr,)", "formatter": "plain"},
        "formatter_plain": {"format": "%(levelname)s %(name)s %(message)s"},
    }


_TEXTS = (
    "database_url",
    "rest_url",
    "broker",
    "broker_login",
    "broker_passcode",
    "panda_url",
    "panda_vo",
    "oidc_config_url",
    "audience",
    "result_destination",
    "status_destination",
    "schema",
)
_LISTS = ("vos", "allow_users", "super_users")


def to_environment(conf: Configuration) -> dict[str, str]:
    """Return the variables that :func:`from_environment` makes the same value of."""
    made = {name: getattr(conf, name) for name in _TEXTS if getattr(conf, name)}
    made.update({name: ";".join(getattr(conf, name)) for name in _LISTS})
    made.update(folder=str(conf.folder), store_results="1" if conf.store_results else "0")
    return {PREFIX + name.upper(): value for name, value in made.items()}


def from_environment(environ: Mapping[str, str]) -> Configuration:
    """Return the configuration that the ``IDDS_DEPLOY_*`` variables say; lists are separated by semicolons.

    :raises KeyError: a variable that has no default is missing; its name is the argument.
    """
    given: dict[str, Any] = {}
    for name in _TEXTS:
        if environ.get(PREFIX + name.upper()):
            given[name] = environ[PREFIX + name.upper()]
    for name in _LISTS:
        if environ.get(PREFIX + name.upper()):
            given[name] = tuple(part.strip() for part in environ[PREFIX + name.upper()].split(";") if part.strip())
    if environ.get(PREFIX + "STORE_RESULTS"):
        given["store_results"] = environ[PREFIX + "STORE_RESULTS"].lower() in ("1", "true", "yes")
    for name in ("database_url", "rest_url", "broker", "broker_login", "broker_passcode", "panda_url"):
        if name not in given:
            raise KeyError(PREFIX + name.upper())
    return Configuration(folder=Path(environ.get(PREFIX + "FOLDER", "/var/lib/idds")), **given)
