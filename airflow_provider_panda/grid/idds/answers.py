"""What iDDS's answers mean: pure functions over plain JSON.

Seen on idds 2.6.21 (facts/idds.md section 2, samples/idds). Objects and enumerations come as
``{"class", "module", "attributes"}``; their names are read, and no class that an answer names is ever imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from airflow_provider_panda.exceptions import GridAuthError, GridError, GridRefusedError, GridServerError
from airflow_provider_panda.grid.answers import decoded, plain_text, shown
from airflow_provider_panda.grid.answers import word as text_of

OPEN: Final = frozenset({"New", "Ready", "Transforming", "Extend", "ToExtend", "Throttling", "Building", "Built"})
"""States of a request that still takes works."""

ENDED: Final = frozenset({"Finished", "SubFinished", "Failed", "Cancelled", "Suspended", "Expired"})
"""States of a request or transform that will not move any more by itself."""

DEPTH: Final = 12
"""How deeply nested texts are looked for in what iDDS says of an error."""

MOST_TEXTS: Final = 100
"""How many of them are told at most."""

_PASSING: Final = re.compile(
    r"DatabaseException|OperationalError|InterfaceError|Connection ?Error|Connection exception"
    r"|connection (?:refused|reset|aborted|timed out)"
    r"|Max retries exceeded|RemoteDisconnected|Remote end closed|[Rr]ead timed out|no answer from iDDS"
    r"|Bad Gateway|Service Unavailable|Gateway Time-?out",
    re.IGNORECASE,
)
"""What iDDS says when its database is away, and PanDA's relay when iDDS is."""

CLOSING: Final = "ToClose"
"""Substatus of a request whose closing was taken and not yet done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformStatus:
    """What iDDS says of one transform of a request.

    :param transform_id: its id.
    :param name: its name.
    :param status: iDDS's own word, such as ``Transforming``.
    :param task_id: jediTaskID of its PanDA task, or None while iDDS has not submitted one.
    :param internal_id: key of the work, where the answer tells it.
    :param errors: iDDS's own words on what went wrong, or None; it keeps none for most failures.
    """

    transform_id: int
    name: str
    status: str
    task_id: int | None = None
    internal_id: str | None = None
    errors: str | None = None

    @property
    def ended(self) -> bool:
        """Whether it will not move any more."""
        return self.status in ENDED


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestStatus:
    """What iDDS says of one request.

    :param request_id: its id.
    :param name: its name.
    :param status: iDDS's own word, such as ``Transforming``.
    :param substatus: iDDS's own word, such as ``ToClose``.
    :param username: its owner, or None.
    :param errors: iDDS's own words on what went wrong, or None.
    :param transforms: its transforms in the order of their ids, where they were asked for.
    """

    request_id: int
    name: str
    status: str
    substatus: str = ""
    username: str | None = None
    errors: str | None = None
    transforms: tuple[TransformStatus, ...] = ()

    @property
    def takes_works(self) -> bool:
        """Whether works may still be added."""
        return self.status in OPEN and self.substatus != CLOSING

    @property
    def ended(self) -> bool:
        """Whether it will not move any more."""
        return self.status in ENDED


def word(value: Any) -> str:
    """Return the name of a state, which comes as an encoded enumeration, or as text."""
    if isinstance(value, Mapping):
        attributes = value.get("attributes")
        value = attributes.get("_name_") if isinstance(attributes, Mapping) else None
    return text_of(value) if isinstance(value, str) else ""


def number(value: Any) -> int | None:
    """Return an id, which may come as text."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return None
    try:
        key = int(value)
    except ValueError:
        return None
    return key if abs(key) < 2**63 else None


def said(value: Any) -> str | None:
    """Return iDDS's words on an error as one line, or None if there are none."""
    return plain_text("; ".join(islice(_texts(value, DEPTH), MOST_TEXTS))) or None


def _texts(value: Any, depth: int) -> Iterator[str]:
    """Yield the texts in a value, down to a depth: what tells an error is not nested deeply."""
    if value in (None, "", {}, []):
        return
    if depth and isinstance(value, Mapping):
        for key, entry in value.items():
            if key != "class":
                yield from _texts(entry, depth - 1)
    elif depth and isinstance(value, list):
        for entry in value:
            yield from _texts(entry, depth - 1)
    elif text := shown(value):
        yield text


def requests(data: Any, url: str, *, asked: int) -> list[RequestStatus]:
    """Return the requests of a listing: one row per transform, or one per request without.

    :param asked: id that was asked for: a request without transforms comes with a request_id of null, for idds 2.6.21
        lets the transform's column stand in for the request's.
    :raises GridServerError: the answer is no listing.
    """
    if not isinstance(data, list):
        raise GridServerError(f"{url} answers with a {type(data).__name__} where a listing was asked for", url=url)
    found: dict[int, dict[int, TransformStatus]] = {}
    heads: dict[int, Mapping[str, Any]] = {}
    for row in data:
        if not isinstance(row, Mapping):
            continue
        request_id = number(row.get("request_id")) or asked
        heads[request_id] = row
        transforms = found.setdefault(request_id, {})
        transform_id = number(row.get("transform_id"))
        if transform_id is not None:
            transforms[transform_id] = _transform(row, transform_id)
    return [
        RequestStatus(
            request_id=request_id,
            name=text_of(row.get("name")),
            status=word(row.get("status")),
            substatus=word(row.get("substatus")),
            username=text_of(row.get("username")) if isinstance(row.get("username"), str) else None,
            errors=said(row.get("errors")),
            transforms=tuple(transforms[key] for key in sorted(transforms)),
        )
        for request_id, row in heads.items()
        for transforms in (found[request_id],)
    ]


def _transform(row: Mapping[str, Any], transform_id: int) -> TransformStatus:
    return TransformStatus(
        transform_id=transform_id,
        name=text_of(row.get("transform_name")),
        status=word(row.get("transform_status")),
        task_id=number(row.get("transform_workload_id")) or number(row.get("processing_workload_id")),
        internal_id=row.get("internal_id") if isinstance(row.get("internal_id"), str) else None,
        errors=said(row.get("transform_errors")) or said(row.get("processing_errors")),
    )


def ids_by_name(data: Any, url: str) -> dict[str, int]:
    """Return ``{name: request id}``.

    :raises GridServerError: the answer is none.
    """
    if not isinstance(data, Mapping):
        raise GridServerError(f"{url} answers with a {type(data).__name__} where names were asked for", url=url)
    return {str(name): key for name, value in data.items() if (key := number(value)) is not None}


def new_id(data: Any, field: str, url: str) -> int:
    """Return the id that iDDS gave to what was added: ``{field: id}``, or the id alone.

    :raises GridRefusedError: there is none.
    """
    key = number(data.get(field)) if isinstance(data, Mapping) else number(data)
    if key is None:
        raise GridRefusedError(f"{url} gave no {field}: {shown(data)}", url=url)
    return key


def commanded(data: Any, url: str) -> None:
    """Check the answer to a command (abort, close): ``[[0, {"status": 0, "message": ...}]]``.

    :raises GridRefusedError: iDDS did not take it; refusals come at HTTP 200.
    """
    entries: Iterable[Any] = data if isinstance(data, list) else [data]
    for entry in entries:
        code, detail = (entry[0], entry[1]) if isinstance(entry, list) and len(entry) == 2 else (None, entry)
        if code != 0:
            message = detail.get("message") if isinstance(detail, Mapping) else detail
            raise refused(shown(message), url)


def messages(data: Any, url: str) -> list[Mapping[str, Any]]:
    """Return the bodies of stored messages.

    :raises GridServerError: the answer is no list.
    """
    if isinstance(data, list) and len(data) == 2 and data[0] is True:  # ClientManager's form
        data = data[1]
    if not isinstance(data, list):
        raise GridServerError(f"{url} answers with a {type(data).__name__} where messages were asked for", url=url)
    bodies = []
    for entry in data:
        body = entry.get("body") if isinstance(entry, Mapping) else None
        if isinstance(body, str):
            try:
                body = decoded(body)
            except (ValueError, RecursionError):
                continue
        if isinstance(body, Mapping):
            bodies.append(body)
    return bodies


def refused(message: str, url: str) -> GridError:
    """Return the error for what iDDS refused, with what to do where that is known."""
    text = plain_text(message)
    if "no permission" in text.lower():
        return GridRefusedError(
            f"iDDS says the request is another user's: {text}. Through the PanDA server's relay this also happens "
            "when the relay's identity is no super user of iDDS: ask its operators, or set idds_host",
            url=url,
        )
    if "x509 proxy" in text or "oidc token" in text.lower():
        return GridAuthError(
            f"The PanDA server's relay has no credentials for iDDS: {text}. Ask its operators", url=url
        )
    if "No section: 'rest'" in text:
        return GridRefusedError(
            "The PanDA server knows no iDDS. Set idds_host of the connection, or service to panda", url=url
        )
    if _PASSING.search(text):
        return GridServerError(f"iDDS failed: {text}. It often passes by itself", url=url, status=200)
    return GridRefusedError(f"iDDS refused: {text}", url=url)
