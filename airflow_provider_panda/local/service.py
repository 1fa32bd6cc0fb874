"""The embedded grid as one process: starts its parts, says when it is ready, stops them."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import ipaddress
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import uvicorn

from airflow_provider_panda.local.api.registry import Grid
from airflow_provider_panda.local.auth import Keys, issue_token, keys_of, with_issuer, write_private
from airflow_provider_panda.local.broker import Broker
from airflow_provider_panda.local.cache import Cache
from airflow_provider_panda.local.directories import Directories
from airflow_provider_panda.local.issuer import Issuer, id_token, refresh_token, user_of
from airflow_provider_panda.local.jedi import EMBEDDED_PILOT, Engine
from airflow_provider_panda.local.notices import DESTINATION, Publisher
from airflow_provider_panda.local.options import GridOptions
from airflow_provider_panda.local.outlet import Outlet
from airflow_provider_panda.local.pages import Pages
from airflow_provider_panda.local.processes import end_leftover
from airflow_provider_panda.local.relay import IddsRelay, NoIdds, Relay
from airflow_provider_panda.local.server import Server
from airflow_provider_panda.local.store import Store
from airflow_provider_panda.local.worker import Worker

log = logging.getLogger(__name__)

PURGE_PERIOD: Final = 3600.0
RELAY_USER: Final = "PanDA Relay"
"""Name in the token that the relay shows to iDDS; to be among the ``super_users`` of iDDS's auth.cfg."""

RELAY_TOKEN_LIFETIME: Final = 600.0


class AlreadyRunningError(RuntimeError):
    """Another embedded grid uses the same data directory."""


class _Publishers:
    """Sends to several publishers."""

    def __init__(self) -> None:
        self.all: list[Publisher] = []

    def publish(self, destination: str, body: str) -> None:
        for publisher in self.all:
            publisher.publish(destination, body)


class _Uvicorn(uvicorn.Server):
    """uvicorn inside a loop that handles signals itself."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def _exclusive(data: Path) -> Iterator[None]:
    """Hold the data directory for this process alone."""
    with (data / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunningError(f"another embedded grid uses {data}; stop it or give another --data") from None
        yield


@contextlib.asynccontextmanager
async def running_grid(options: GridOptions) -> AsyncIterator[dict[str, Any]]:
    """Run an embedded grid while the context is open; the value is what is printed when it is ready."""
    data = options.data.resolve()
    directories = Directories(data=data)
    directories.make()
    with _exclusive(data), Store(data / "grid.sqlite") as store:
        async with _running(options, directories, store) as ready:
            yield ready


@contextlib.asynccontextmanager
async def _running(options: GridOptions, directories: Directories, store: Store) -> AsyncIterator[dict[str, Any]]:
    data = directories.data
    keys = keys_of(data)
    publishers = _Publishers()
    broker = Broker(keys) if options.embedded_broker else None
    outlet = Outlet(*options.broker) if options.broker else None
    with _listening(options.host, options.http_port) as listening:
        url = f"http://{_in_url(options.host)}:{listening.getsockname()[1]}"
        keys = with_issuer(data, keys, options.issuer or url)
        engine = Engine(store, options, publishers, url)
        worker = Worker(engine, store, options, directories, url)
        cache = Cache(directories.cache, store)
        grid = Grid(store=store, engine=engine, cache=cache, options=options, relay=_relay(options, keys), url=url)
        issuer = Issuer(keys, data, options.vos, user_of(options.user, options.vos), options.lifetimes)
        application = Server(grid, keys, Pages(store, directories), issuer).application
        config = uvicorn.Config(
            application,
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=2,
            timeout_keep_alive=600,
        )
        server = _Uvicorn(config)
        if broker is not None:
            await broker.start(options.host, options.stomp_port)
            publishers.all.append(broker)
        if outlet is not None:
            publishers.all.append(outlet)
        for job in store.jobs.with_pilot(EMBEDDED_PILOT):
            end_leftover(job)
        lost = engine.attempts.recover(time.time())
        if lost:
            log.warning("%d jobs were running when the grid was killed; they count as lost", len(lost))
        serving = asyncio.create_task(server.serve(sockets=[listening]), name="http")
        moving = asyncio.create_task(engine.run(), name="engine")
        sweeping = asyncio.create_task(worker.sweep(), name="sweep")
        purging = asyncio.create_task(_purge(cache), name="purge")
        try:
            while not server.started:
                if serving.done():
                    serving.result()
                    raise RuntimeError("the HTTP server ended at once")
                await asyncio.sleep(0.01)
            yield _ready(options, data, url, broker, keys)
        finally:
            for task in (moving, sweeping, purging):
                task.cancel()
            await asyncio.gather(moving, sweeping, purging, return_exceptions=True)
            await worker.stop()
            server.should_exit = True
            await asyncio.gather(serving, return_exceptions=True)
            if broker is not None:
                await broker.stop()
            if outlet is not None:
                await asyncio.to_thread(outlet.close)


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=512)
    # asyncio sets it only on sockets that say IPPROTO_TCP, which these do not; without it each answer takes 40 ms more
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


async def _purge(cache: Cache) -> None:
    while True:
        cache.purge(time.time())
        await asyncio.sleep(PURGE_PERIOD)


def _relay(options: GridOptions, keys: Keys) -> Relay:
    if options.idds_host is None:
        return NoIdds()
    vo = options.vos[0]

    def token() -> str:
        return issue_token(keys, name=RELAY_USER, nickname="panda-relay", groups=[vo], lifetime=RELAY_TOKEN_LIFETIME)

    return IddsRelay(options.idds_host, token=token, vo=vo, deadline=options.idds_deadline)


def _ready(options: GridOptions, data: Path, url: str, broker: Broker | None, keys: Keys) -> dict[str, Any]:
    user = user_of(options.user, options.vos)
    token_file, refresh_token_file = data / "token", data / "refresh_token"
    write_private(token_file, id_token(keys, user))
    write_private(refresh_token_file, refresh_token(keys, user, lifetime=options.lifetimes.refresh_token))
    ready: dict[str, Any] = {
        "url": url,
        "cache_url": url,
        "token_file": str(token_file),
        "refresh_token_file": str(refresh_token_file),
        "issuer": keys.issuers[-1],
        "vo": options.vos[0],
        "queues": list(options.queues),
        "data": str(data),
        "pid": os.getpid(),
    }
    if broker is not None:
        stomp = f"{_in_url(options.host)}:{broker.port}"
        broker_file = data / "broker.json"
        write_private(
            broker_file,
            json.dumps(
                {
                    "address": stomp,
                    "login": keys.broker_login,
                    "passcode": keys.broker_passcode,
                    "publisher_login": keys.publisher_login,
                    "publisher_passcode": keys.publisher_passcode,
                    "status_destination": DESTINATION,
                }
            ),
        )
        ready.update(stomp=stomp, broker_file=str(broker_file))
    return ready


async def _serve(options: GridOptions) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running_grid(options) as ready:
        print(json.dumps(ready), flush=True)
        log.info("embedded grid: %s, data in %s", ready["url"], ready["data"])
        if not _is_loopback(options.host):
            log.warning(
                "embedded grid: it listens on %s, and not on loopback only: whoever reaches it can read its pages and "
                "cache, and whoever has its token or a login of its broker runs commands here as this user",
                options.host,
            )
        await stop.wait()
        log.info("embedded grid: stopping")


def run(options: GridOptions) -> int:
    """Run an embedded grid until SIGTERM or SIGINT, and return its exit code.

    Prints one line of JSON on stdout when it is ready: URLs, and the paths of files with token and broker logins.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(_serve(options))
    except (AlreadyRunningError, OSError) as error:
        print(f"embedded grid: {error}", file=sys.stderr)
        return 1
    return 0
