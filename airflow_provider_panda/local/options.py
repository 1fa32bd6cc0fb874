"""What an embedded grid is started with, and how the command line says it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from airflow_provider_panda.local.issuer import ID_LIFETIME, REFRESH_LIFETIME, Lifetimes
from airflow_provider_panda.local.relay import IDDS_DEADLINE

DEFAULT_QUEUE = "LOCAL"
BROKER_LOGIN_VARIABLE = "PANDA_GRID_BROKER_LOGIN"
BROKER_PASSCODE_VARIABLE = "PANDA_GRID_BROKER_PASSCODE"


@dataclass(frozen=True, slots=True, kw_only=True)
class GridOptions:
    """Options of an embedded grid. Delays are in seconds.

    :param data: directory that holds everything the grid keeps; made if missing.
    :param host: address to listen on; keep it a loopback address, for jobs are commands that run here.
    :param http_port: port of the PanDA server; 0 for a free one.
    :param stomp_port: port of the broker; 0 for a free one.
    :param slots: jobs that run at once; 0 leaves all jobs to outside pilots.
    :param queues: names of the PanDA queues; the first is used when a task names none.
    :param vos: virtual organisations that tokens may be of.
    :param user: name of the user whose token is written.
    :param queue_delay: time a job waits before a pilot takes it.
    :param register_delay: time from submission until the task is known.
    :param report_delay: time from the pilot's last report until the job is final.
    :param finish_delay: time from the last final job until the task is final.
    :param retry_delay: time from a failed attempt to the next.
    :param command_delay: time until a kill, finish or retry is acted on.
    :param failure_rate: chance that an attempt fails for a reason of the infrastructure, 0 to 1.
    :param seed: seed of that chance.
    :param embedded_broker: whether the grid has its own broker.
    :param broker: ``(host, port)`` of another broker to publish to; the login comes from the environment.
    :param idds_host: base URL of the iDDS that commands are relayed to, or None.
    :param idds_deadline: time after which a relayed command counts as failed.
    :param issuer: URL that tokens name as their issuer; None for the grid's own, which has the port in it.
    :param lifetimes: how long the tokens of the token endpoint are good for.
    """

    data: Path
    host: str = "127.0.0.1"
    http_port: int = 0
    stomp_port: int = 0
    slots: int = 2
    queues: tuple[str, ...] = (DEFAULT_QUEUE,)
    vos: tuple[str, ...] = ("wlcg", "panda_dev")
    user: str = "Grid User"
    queue_delay: float = 0.0
    register_delay: float = 0.3
    report_delay: float = 0.1
    finish_delay: float = 0.3
    retry_delay: float = 0.3
    command_delay: float = 0.2
    failure_rate: float = 0.0
    seed: int = 0
    embedded_broker: bool = True
    broker: tuple[str, int] | None = None
    idds_host: str | None = None
    idds_deadline: float = IDDS_DEADLINE
    issuer: str | None = None
    lifetimes: Lifetimes = field(default_factory=Lifetimes)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the embedded grid to a parser."""
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        default=Path("panda-grid"),
        metavar="DIR",
        help="where everything is kept (default: %(default)s)",
    )
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--http-port", type=_port, default=0, metavar="P", help="port of the PanDA server; 0 takes a free one")
    add("--stomp-port", type=_port, default=0, metavar="S", help="port of the broker; 0 takes a free one")
    add(
        "--slots",
        type=_count,
        default=2,
        metavar="N",
        help="jobs at once; 0 leaves them to outside pilots (default: 2)",
    )
    add("--queue", action="append", metavar="NAME", help=f"a PanDA queue; repeatable (default: {DEFAULT_QUEUE})")
    add("--vo", action="append", metavar="NAME", help="a virtual organisation; repeatable (default: wlcg, panda_dev)")
    add("--user", default="Grid User", help="name of the user of the token (default: %(default)s)")
    delays = {
        "queue": (0.0, "before a job is taken"),
        "register": (0.3, "until a submitted task is known"),
        "report": (0.1, "until an ended job is final"),
        "finish": (0.3, "until a task whose jobs are final is final"),
        "retry": (0.3, "until the next attempt of a job"),
        "command": (0.2, "until a kill, finish or retry is acted on"),
    }
    for name, (default, text) in delays.items():
        add(f"--{name}-delay", type=_seconds, default=default, metavar="SECONDS", help=f"{text} (default: {default})")
    add("--failure-rate", type=_fraction, default=0.0, metavar="F", help="chance that an attempt fails, 0 to 1")
    add("--seed", type=int, default=0, metavar="N", help="seed of the failures")
    add("--no-broker", action="store_true", help="do not start the small STOMP broker")
    add(
        "--broker",
        type=_address,
        metavar="HOST:PORT",
        help=f"publish to this broker as well; login from ${BROKER_LOGIN_VARIABLE}, ${BROKER_PASSCODE_VARIABLE}",
    )
    add("--idds-host", type=_url, metavar="URL", help="iDDS REST service that relay_idds_command reaches")
    add(
        "--idds-deadline",
        type=_seconds,
        default=IDDS_DEADLINE,
        metavar="SECONDS",
        help="until a relayed command counts as failed (default: %(default)s)",
    )
    add("--issuer", type=_url, metavar="URL", help="issuer in the tokens (default: the grid's own URL)")
    add(
        "--id-token-lifetime",
        type=_seconds,
        default=ID_LIFETIME,
        metavar="SECONDS",
        help="id tokens of the token endpoint (default: %(default)s)",
    )
    add(
        "--refresh-token-lifetime",
        type=_seconds,
        default=REFRESH_LIFETIME,
        metavar="SECONDS",
        help="refresh tokens (default: %(default)s)",
    )
    add("--rotate-refresh-tokens", action="store_true", help="each refresh token is good for one use")


def options_from(args: argparse.Namespace) -> GridOptions:
    """Return the options that parsed arguments (see :func:`add_arguments`) stand for."""
    return GridOptions(
        data=args.data,
        host=args.host,
        http_port=args.http_port,
        stomp_port=args.stomp_port,
        slots=args.slots,
        queues=tuple(args.queue or (DEFAULT_QUEUE,)),
        vos=tuple(args.vo or ("wlcg", "panda_dev")),
        user=args.user,
        queue_delay=args.queue_delay,
        register_delay=args.register_delay,
        report_delay=args.report_delay,
        finish_delay=args.finish_delay,
        retry_delay=args.retry_delay,
        command_delay=args.command_delay,
        failure_rate=args.failure_rate,
        seed=args.seed,
        embedded_broker=not args.no_broker,
        broker=args.broker,
        idds_host=args.idds_host,
        idds_deadline=args.idds_deadline,
        issuer=args.issuer,
        lifetimes=Lifetimes(
            id_token=args.id_token_lifetime,
            refresh_token=args.refresh_token_lifetime,
            rotate=args.rotate_refresh_tokens,
        ),
    )


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{value} is no port")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError("must be seconds, not negative")
    return value


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("must be between 0 and 1")
    return value


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise argparse.ArgumentTypeError("must be host:port")
    return host, _port(port)


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise argparse.ArgumentTypeError("must be http:// or https:// with a host, and without a login")
    return text.rstrip("/")
