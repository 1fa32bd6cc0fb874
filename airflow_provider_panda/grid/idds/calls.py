"""How a command reaches iDDS: its own REST interface, or a command of the PanDA server's relay.

Directly, idds-client's low-level client says which method, path and body a call has; it is stopped before it sends,
for it would wait up to 30 s between attempts, trust any TLS certificate and import the classes that an answer names.
Relayed, the commands are those of iDDS's ClientManager, as its own tools send them (facts/panda.md section 4):
compressed JSON, and errors as values.
"""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Protocol

from airflow_provider_panda.exceptions import GridAuthError, GridError, GridRefusedError, GridServerError
from airflow_provider_panda.grid.answers import decoded, plain_text, shown
from airflow_provider_panda.grid.idds.answers import refused
from airflow_provider_panda.grid.session import Reply, Request, base_url

_JSON: Final = {"Content-Type": "application/json", "Accept": "application/json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One thing to do at iDDS, in both forms.

    :param direct: function of idds-client's low-level client, with its arguments.
    :param relayed: command of ClientManager, with its arguments.
    """

    direct: tuple[str, Mapping[str, Any]]
    relayed: tuple[str, Mapping[str, Any]]


class Way(Protocol):
    """One way to iDDS."""

    def request(self, command: Command) -> Request:
        """Return what is to be sent for a command."""

    def read(self, reply: Reply) -> Any:
        """Return the value in an answer.

        :raises GridError: it says no, or says nothing that can be read.
        """


class Direct:
    """The REST interface of iDDS itself.

    :param host: its base URL.
    """

    def __init__(self, host: str) -> None:
        self._host = host.rstrip("/")

    def request(self, command: Command) -> Request:
        function, arguments = command.direct
        client = _recorder()(self._host)
        try:
            getattr(client, function)(**arguments)
        except _RecordedError as recorded:
            content = None if recorded.data is None else json.dumps(recorded.data).encode()
            return Request(method=recorded.method, url=recorded.url, headers=_JSON, content=content)
        raise GridRefusedError(f"idds-client made no request of {function}", url=self._host)

    def read(self, reply: Reply) -> Any:
        answer = _json(reply)
        if isinstance(answer, Mapping) and {"data", "error", "status"} <= set(answer):
            if answer["error"]:
                raise refused(_message(answer["error"]), reply.url)
            return answer["data"]
        if reply.status == 200:  # a version without json_outputs
            return answer
        raise _http_error(reply)


class Relayed:
    """The PanDA server's relay of commands to the iDDS that it knows.

    :param panda_url: base URL of the PanDA server.
    """

    def __init__(self, panda_url: str) -> None:
        self._url = f"{base_url(panda_url)}/server/panda/relay_idds_command"

    def request(self, command: Command) -> Request:
        name, arguments = command.relayed
        body = {"command_name": name, "manager": True}
        if arguments:
            body["kwargs"] = json.dumps(arguments)
        return Request(
            method="POST",
            url=self._url,
            headers={"Content-Type": "application/json"},
            content=gzip.compress(json.dumps(body).encode(), mtime=0),
        )

    def read(self, reply: Reply) -> Any:
        if reply.status != 200:
            raise _http_error(reply)
        answer = _json(reply)
        if isinstance(answer, Mapping) and answer.get("success") is False:
            raise GridAuthError(
                f"PanDA's relay refused: {shown(answer.get('message'))}. Check auth of the connection",
                url=reply.url,
            )
        if not isinstance(answer, list) or len(answer) != 2:
            raise GridServerError(f"PanDA's relay gave no pair: {shown(answer)}", url=reply.url, status=200)
        done, value = answer
        if done is not True:
            raise refused(shown(value), reply.url)
        # ClientManager turns every exception into (False, text).
        if isinstance(value, list) and len(value) == 2 and value[0] is False and isinstance(value[1], str):
            raise refused(value[1], reply.url)
        if isinstance(value, list) and len(value) == 2 and value[0] == -1 and isinstance(value[1], str):
            raise refused(value[1], reply.url)
        return value


class _RecordedError(Exception):
    """What idds-client was about to send."""

    def __init__(self, method: str, url: str, data: Any) -> None:
        super().__init__(method)
        self.method, self.url, self.data = method, url, data


@lru_cache(maxsize=1)
def _recorder() -> Callable[[str], Any]:
    """Return a maker of low-level clients that send nothing; imported late, for it takes a quarter of a second."""
    from idds.client.client import Client

    class Recorder(Client):  # type: ignore[misc]
        def __init__(self, host: str) -> None:
            # Credentials are the session's business; this one only has to pass the client's own check.
            super().__init__(host=host, auth={"auth_type": "oidc", "oidc_token": "-", "vo": "-"})
            self.enable_json_outputs()  # errors in the body, not in headers

        def get_request_response(self, url: str, type: str = "GET", data: Any = None, *_: Any, **__: Any) -> Any:
            raise _RecordedError({"DEL": "DELETE"}.get(type, type), url, data)

    return Recorder


def _json(reply: Reply) -> Any:
    if not reply.body.strip():
        if reply.status != 200:
            raise _http_error(reply)
        return None
    try:
        return decoded(reply.body)
    except ValueError:
        if reply.status != 200:
            raise _http_error(reply) from None
        text = plain_text(reply.body[:400].decode(errors="replace"))
        raise GridServerError(
            f"{reply.url} answers with something that is no JSON: {text}",
            url=reply.url,
            status=reply.status,
        ) from None


def _message(error: Any) -> str:
    """Return the words in ``{"ExceptionClass", "ExceptionMessage"}``, whose message may be JSON in a string."""
    text = error.get("ExceptionMessage") if isinstance(error, Mapping) else error
    if isinstance(text, str) and text.startswith("{"):
        with contextlib.suppress(ValueError, AttributeError):
            text = decoded(text).get("msg", text)
    return shown(text)


def _http_error(reply: Reply) -> GridError:
    text = plain_text(reply.complaint or reply.body[:2000].decode(errors="replace"))
    told = f": {text}" if text else ""
    if reply.status in (401, 403):
        return GridAuthError(
            f"{reply.url} refuses the credentials (HTTP {reply.status}){told}. Check auth and vo of the connection",
            url=reply.url,
        )
    page = reply.body.lstrip()[:1] == b"<"  # iDDS itself answers with JSON: somebody stands before it
    if reply.status >= 500 or reply.status in (408, 429) or page or 300 <= reply.status < 400:
        return GridServerError(
            f"{reply.url} failed with HTTP {reply.status}{told}. It often passes by itself; if not, check idds_host of "
            "the connection",
            url=reply.url,
            status=reply.status,
            retry_after=reply.retry_after,
        )
    return GridRefusedError(f"{reply.url} answers with HTTP {reply.status}{told}", url=reply.url)
