"""iDDS's own client, made fit for a server that calls it for others (idds-client 2.6.21).

Its two classes are used as the real PanDA server does, with three differences:

* credentials are handed over; nothing is read from the environment, from ``~/.idds`` or from a proxy file;
* iDDS's JSON names classes, and its reader imports and calls whatever is named. Here a name outside iDDS's own
  packages is refused in what a client sends, and stays plain JSON in what iDDS answers;
* a refused connection is an answer at once, not after up to a minute of the client's random sleeps.
"""

from __future__ import annotations

import enum
import importlib
import json
from typing import Any, Final, TypeVar

from idds.client.client import Client
from idds.client.clientmanager import ClientManager
from idds.common import constants, exceptions
from idds.common.dict_class import DictClass
from idds.common.utils import json_dumps

CLIENT_COMMANDS: Final = frozenset(
    {
        "abort_request", "abort_request_task", "add_request", "add_transform", "adjust_worker", "close_request",
        "close_workflow_task", "create_workflow_task", "get_collections", "get_contents", "get_contents_output_ext",
        "get_hyperparameters", "get_match_contents", "get_messages", "get_metainfo", "get_request_id_by_name",
        "get_requests", "get_transform", "get_transforms", "ping", "register_contents", "retry_request",
        "send_messages", "update_build_request", "update_hyperparameter", "update_request",
    }
)  # fmt: skip
"""What users may have the low-level client do.

The real server offers every attribute of the object, so also those that read and write the server's own files
(``upload``, ``download_logs``) or hand out its token (``get_oidc_token``).
"""

MANAGER_COMMANDS: Final = frozenset(
    {
        "abort", "abort_task", "adjust_worker", "close", "close_workflow_task", "create_workflow_task",
        "get_collections", "get_contents", "get_contents_output_ext", "get_hyperparameters", "get_messages",
        "get_metainfo", "get_request_id_by_name", "get_requests", "get_status", "get_transform", "get_transforms",
        "ping", "retry", "send_messages", "submit", "submit_build", "submit_work", "update_build_request",
        "update_hyperparameter",
    }
)  # fmt: skip
"""What users may have the ClientManager do."""

CLASS_PACKAGES: Final = ("idds.common", "idds.workflow", "idds.workflowv2", "idds.iworkflow", "idds.atlas", "idds.doma")
"""Where the classes of workflows and works are; the agents and the REST server of iDDS are no part of it."""

Arguments = TypeVar("Arguments", list[Any], dict[str, Any])


class ForeignClassError(Exception):
    """A client names a class that is not one of iDDS's workflow classes."""


def decode_arguments(text: str | None, kind: type[Arguments], *, build: bool) -> Arguments:
    """Return positional or named arguments in iDDS's JSON.

    :param build: whether workflows and works become objects, which the ClientManager asks for their names and types;
        the low-level client only sends them on, and gets them as they came. Enums become objects in both cases.
    :raises ForeignClassError: a class is named that is not iDDS's own.
    """
    if not text:
        return kind()
    decoded = json.loads(text, object_hook=_build if build else _check)
    if not isinstance(decoded, kind):
        raise TypeError(f"a JSON {'list' if kind is list else 'object'} is needed, not {type(decoded).__name__}")
    return decoded


def decode_answer(text: str) -> Any:
    """Return what iDDS answered; statuses and types are enums, other objects stay plain."""
    return json.loads(text, object_hook=_enum_or_plain)


def plain(value: Any) -> Any:
    """Return a value as JSON has it: enums, dates and objects in the form that iDDS itself sends."""
    return json.loads(json_dumps(value))


def _enum_of(item: dict[str, Any]) -> enum.Enum | None:
    if item["module"] != constants.__name__:
        return None
    found = getattr(constants, str(item["class"]), None)
    if not (isinstance(found, type) and issubclass(found, enum.Enum)):
        return None
    try:
        return found(item["attributes"]["_value_"])
    except (KeyError, TypeError, ValueError):  # of another version of iDDS
        return None


def _enum_or_plain(item: dict[str, Any]) -> Any:
    if not DictClass.is_class(item):
        return item
    found = _enum_of(item)
    return item if found is None else found


def _check(item: dict[str, Any]) -> Any:
    if DictClass.is_class(item) and not str(item["module"]).startswith(tuple(f"{own}." for own in CLASS_PACKAGES)):
        raise ForeignClassError(f"{item['module']}.{item['class']}: not a class of iDDS's workflows")
    return _enum_or_plain(item)


def _build(item: dict[str, Any]) -> Any:
    checked = _check(item)
    if checked is not item or not DictClass.is_class(item):
        return checked
    name, attributes = str(item["class"]), item["attributes"]
    found = getattr(importlib.import_module(str(item["module"])), name, None)
    if not isinstance(found, type) or not issubclass(found, (DictClass, enum.Enum)) or not isinstance(attributes, dict):
        raise ForeignClassError(f"{item['module']}.{name}: not a class of iDDS's workflows")
    if issubclass(found, enum.Enum):
        return found(attributes["_value_"])  # DictClass.from_dict would write into the one member that all share
    if any(attribute.startswith("__") for attribute in attributes):
        raise ForeignClassError(f"{item['module']}.{name}: has attributes that no workflow has")
    return DictClass.from_dict(item)


class _RelayedClient(Client):  # type: ignore[misc]
    """The low-level client, with answers read by :func:`decode_answer`."""

    def get_request_response(
        self,
        url: str,
        type: str = "GET",
        data: Any = None,
        headers: Any = None,
        auth_setup_step: bool = False,
        return_result_directly: bool = False,
    ) -> Any:
        response = super().get_request_response(
            url, type=type, data=data, headers=headers, auth_setup_step=auth_setup_step, return_result_directly=True
        )
        if return_result_directly:
            return response
        if response.status_code == 200:
            return decode_answer(response.text) if response.text else None
        raise _error_of(response)


def _error_of(response: Any) -> Exception:
    found = getattr(exceptions, response.headers.get("ExceptionClass", ""), None)
    if not (isinstance(found, type) and issubclass(found, exceptions.IDDSException)):
        found = exceptions.IDDSException
    text = response.headers.get("ExceptionMessage") or response.text or f"HTTP status {response.status_code}"
    error: Exception = found(text)
    return error


class _RelayedManager(ClientManager):  # type: ignore[misc]
    """The ClientManager around a client that is there already."""

    def __init__(self, client: _RelayedClient, timeout: float) -> None:
        super().__init__(host=client.host, timeout=timeout)
        self.client = client
        self.auth_type, self.vo = client.auth_type, client.vo

    def setup_client(self, auth_setup: bool = False) -> None:
        """Do nothing: the original reads the environment and ``~/.idds`` here, before each command."""


class Session:
    """A client of one iDDS with one token.

    :param timeout: seconds that iDDS may be silent.
    """

    def __init__(self, host: str, *, token: str, vo: str, timeout: float) -> None:
        self._timeout = timeout
        self.client = _RelayedClient(
            host=host, timeout=timeout, auth={"auth_type": "oidc", "oidc_token": token, "vo": vo}
        )
        self.client.retries = 1

    def act_for(self, user: str) -> None:
        """Have iDDS take a user for the caller (header X-IDDS-Auth-Username-Original)."""
        self.client.set_original_user(user_name=user)

    def manager(self, *, json_outputs: bool) -> _RelayedManager:
        """Return the ClientManager of this session."""
        manager = _RelayedManager(self.client, self._timeout)
        if json_outputs:
            manager.setup_json_outputs()
        return manager
