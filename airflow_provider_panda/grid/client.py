"""The one adapter around panda-client 2.2: a private copy of its module for each endpoint, and our own transport.

``pandaclient.Client`` reads its configuration from the environment at import, keeps it in module globals, prompts
for logins, prints, calls ``sys.exit`` and drops the reasons of refusals. Here each endpoint gets a module object of
its own with its own globals, and the class that sends is replaced by one that takes everything from the endpoint.
panda-client still decides which method, path and body a call has.
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
import os
import tempfile
import threading
from collections import OrderedDict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Final

from airflow_provider_panda.exceptions import ConfigurationError, GridAuthError, GridError, GridRefusedError
from airflow_provider_panda.grid.answers import Answer, read_answer
from airflow_provider_panda.grid.endpoint import PandaEndpoint
from airflow_provider_panda.grid.identity.credentials import user_name
from airflow_provider_panda.grid.loop import LoopThread, loop_thread
from airflow_provider_panda.grid.session import Reply, Request, Session, base_url

log = logging.getLogger(__name__)

CLIENTS_KEPT: Final = 64
"""Endpoints with a client of their own in one process; the one unused for longest goes first."""

_NO_LOOKUP: Final = "PANDA_BEHIND_REAL_LB"
"""Where this is set, panda-client does not replace host names by those of random addresses."""

_TAKEN: Final = b'{"success": true, "message": "", "data": null}'
"""What panda-client sees of each answer: the real one is read by us, once."""


class PandaClient:
    """Calls functions of panda-client for one endpoint. Safe to use from many threads at once."""

    def __init__(self, endpoint: PandaEndpoint) -> None:
        self.endpoint = endpoint
        self._module = _private_module(endpoint, self._transmit)
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._loop: LoopThread | None = None
        self._call = threading.local()

    def call(self, function: str, *args: Any, **kwargs: Any) -> Answer:
        """Call a function of ``pandaclient.Client`` and return the envelope of the server's answer.

        :param function: its name.
        :raises GridError: no answer, or one without an envelope; refusals (``success`` false) are returned.
        """
        reply = self._reply(function, *args, **kwargs)
        return read_answer(reply.status, reply.body, reply.url, retry_after=reply.retry_after)

    def upload(self, name: str, content: bytes) -> Answer:
        """Send a file to the cache (PanDA API v1 file_server/upload_cache_file) and return the answer.

        :param name: name in the cache, without directories.
        :param content: its bytes.
        """
        with tempfile.TemporaryDirectory(prefix="panda-upload-") as folder:
            path = Path(folder, name)
            path.write_bytes(content)
            return self.call("putFile", str(path), useCacheSrv=True)

    def in_cache(self, name: str) -> bool:
        """Return whether the cache has a file of that name.

        :raises GridError: no usable answer.
        """
        request = Request(method="HEAD", url=f"{self.cache_url}/cache/{name}", headers={})
        reply = self._exchange(request)
        if reply.status in (200, 404):
            return reply.status == 200
        read_answer(reply.status, reply.body, reply.url, retry_after=reply.retry_after)
        raise GridRefusedError(f"{reply.url} answers with HTTP {reply.status}", url=reply.url)

    @property
    def cache_url(self) -> str:
        """Base URL of the cache."""
        return base_url(self.endpoint.cache_url or self.endpoint.url)

    def user_name(self) -> str | None:
        """Return the owner's name in the token, if it has one."""
        return user_name(self.token())

    def token(self) -> str | None:
        """Return the id token for the next call, renewed if need be, or None for an endpoint without.

        :raises GridError: there is none that can be used.
        """
        loop, session = self._current_session()
        return loop.wait_for(session.token)

    def _reply(self, function: str, *args: Any, **kwargs: Any) -> Reply:
        call = self._call
        call.reply = call.error = None
        returned: Any = None
        try:
            returned = getattr(self._module, function)(*args, **kwargs)
        except SystemExit as error:
            raise GridAuthError(
                f"panda-client gave up on {function} (exit code {error.code}). Check auth of the connection",
                url=self.endpoint.url,
            ) from None
        except Exception as error:
            # What was exchanged counts, not what panda-client makes of it.
            if call.error is None and call.reply is None:
                if isinstance(error, GridError):
                    raise
                raise GridRefusedError(f"panda-client could not make the call {function}: {error}") from error
        failure: GridError | None = call.error
        reply: Reply | None = call.reply
        call.reply = call.error = None
        if failure is not None:
            raise failure
        if reply is None:
            raise GridRefusedError(f"panda-client refused the call {function}: {returned}", url=self.endpoint.url)
        return reply

    def _transmit(self, request: Request) -> None:
        """Exchange for panda-client; the outcome is kept for the call that runs in this thread."""
        try:
            self._call.reply = self._exchange(request)
        except GridError as error:
            self._call.error = error
            raise

    def _exchange(self, request: Request) -> Reply:
        loop, session = self._current_session()
        return loop.wait_for(lambda: session.send(request))

    def _current_session(self) -> tuple[LoopThread, Session]:
        loop = loop_thread()
        with self._lock:
            if self._session is None or self._loop is not loop:  # first use, or first after a fork
                self._session, self._loop = Session(self.endpoint), loop
            return loop, self._session


# --- one client for each endpoint ---------------------------------------------------------------------------

_clients: OrderedDict[PandaEndpoint, PandaClient] = OrderedDict()
_clients_lock = threading.Lock()
_load_lock = threading.Lock()
_serial = itertools.count(1)


def panda_client(endpoint: PandaEndpoint) -> PandaClient:
    """Return this process's client of an endpoint."""
    with _clients_lock:
        client = _clients.get(endpoint)
        if client is None:
            client = _clients[endpoint] = PandaClient(endpoint)
            if len(_clients) > CLIENTS_KEPT:
                _clients.popitem(last=False)
        else:
            _clients.move_to_end(endpoint)
        return client


def _after_fork() -> None:
    """Forget clients and locks of the parent: a lock may be held by a thread that the child does not have."""
    global _clients_lock, _load_lock
    _clients_lock, _load_lock = threading.Lock(), threading.Lock()
    _clients.clear()


os.register_at_fork(after_in_child=_after_fork)


def _private_module(endpoint: PandaEndpoint, transmit: Any) -> ModuleType:
    """Return a copy of ``pandaclient.Client`` with its globals set for an endpoint."""
    module = _load()
    server, cache = base_url(endpoint.url), base_url(endpoint.cache_url or endpoint.url)
    for name, value in {
        "baseURL": f"{server}/server/panda",
        "baseURLSSL": f"{server}/server/panda",
        "baseURLCSRVSSL": f"{cache}/server/panda",
        "server_base_path": f"{server}/api/v1",
        "server_base_path_ssl": f"{server}/api/v1",
        "cache_base_path_ssl": f"{cache}/api/v1",
        # Whatever looks at the environment, prints, prompts or logs to stdout:
        "_x509_proxy_path": lambda: "",
        "_x509_ca_path": lambda: "",
        "use_oidc": lambda: False,
        "use_x509_no_grid": lambda: False,
        "get_token_string": lambda *_: None,
        "dump_log": lambda *_: "",
        "print": lambda *_, **__: None,
        "PLogger": SimpleNamespace(getPandaLogger=lambda *_, **__: _silent),
    }.items():
        if name != "print" and not hasattr(module, name):
            raise ConfigurationError(
                "panda-client", f"its module Client has no {name}", "Install a version that we know: panda-client 2.2"
            )
        setattr(module, name, value)
    module._HttpClient = _transport(module._HttpClient, transmit)  # type: ignore[attr-defined]
    return module


_silent = logging.getLogger(f"{__name__}.panda-client")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False


def _load() -> ModuleType:
    """Load ``pandaclient.Client`` once more under a private name, resolving no host name on the way."""
    found = importlib.util.find_spec("pandaclient.Client")
    if found is None or found.origin is None:
        raise ConfigurationError("panda-client", "it is not installed", "Install panda-client 2.2")
    # A name inside the package lets the relative imports of the module work.
    spec = importlib.util.spec_from_file_location(f"pandaclient._airflow_{next(_serial)}", found.origin)
    if spec is None or spec.loader is None:
        raise ConfigurationError("panda-client", f"{found.origin} cannot be loaded", "Install panda-client 2.2 anew")
    module = importlib.util.module_from_spec(spec)
    with _load_lock:
        was = os.environ.get(_NO_LOOKUP)
        os.environ[_NO_LOOKUP] = "1"
        try:
            spec.loader.exec_module(module)
        finally:
            if was is None:
                del os.environ[_NO_LOOKUP]
            else:
                os.environ[_NO_LOOKUP] = was
    return module


def _transport(base: Any, transmit: Any) -> Any:
    """Return panda-client's HTTP class with everything replaced that authenticates, resolves or sends."""

    class Transport(base):  # type: ignore[misc]
        def __init__(self) -> None:
            self.verify_host = True
            self.ssl_certificate = self.ssl_key = ""
            self.id_token = self.auth_vo = None
            self.auth_mode = "oidc"
            self.verbose = False

        def get_oidc(self, tmp_log: Any) -> Any:
            raise GridAuthError("panda-client wanted to start a login. Set auth of the connection")

        def get_id_token(self, force_new: bool = False) -> bool:
            raise GridAuthError("panda-client wanted to start a login. Set auth of the connection")

        def get_token_info(self) -> Any:
            raise GridAuthError("panda-client wanted to start a login. Set auth of the connection")

        def randomize_ip(self, url: str) -> str:
            return url

        def _build_ssl_context(self, use_https: bool) -> bool:
            return False

        def _auth_headers(self) -> dict[str, str]:
            return {}

        def _send(
            self,
            method: str,
            url: str,
            headers: dict[str, str] | None = None,
            content: bytes | None = None,
            files: dict[str, Any] | None = None,
            verify: Any = True,
            download_name: str | None = None,
        ) -> tuple[int, bytes]:
            file = None
            if files:
                ((field, (path, handle, _)),) = files.items()
                file = (field, Path(path).name, handle.read())
            transmit(Request(method=method, url=url, headers=headers or {}, content=content, file=file))
            return 0, _TAKEN

    return Transport
