"""Fetches large results from the result store and checks them against the hash in the signed envelope."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, url2pathname, urlopen

from airflow_provider_panda.exceptions import ValueDecodeError

from .result import JobResult

SIZE_LIMIT = 1 << 30
"""Largest value, in bytes, that is fetched."""

_NAME = re.compile(r"(?!\.)[A-Za-z0-9_.-]+(/(?!\.)[A-Za-z0-9_.-]+)*")
"""What the runner puts behind the store's URL: task key, job and attempt. Nothing that leads up, or elsewhere."""


def fetch_reference(result: JobResult, *, result_store: str | None, timeout: float = 60.0) -> JobResult:
    """Return the result with its value in place of the reference; one that is no reference is returned as it is.

    :param result_store: base URL of the connection; a reference that leads elsewhere is refused. None: every one is.
    :param timeout: seconds without an answer.
    :raises ValueDecodeError: it cannot be fetched, or is not what the job stored.
    """
    if result.encoding != "reference":
        return result
    reference: Mapping[str, Any] = result.payload if isinstance(result.payload, Mapping) else {}
    url, size, digest = reference.get("url"), reference.get("size"), reference.get("sha256")
    encoding = reference.get("encoding")
    if not isinstance(url, str) or type(size) is not int or not isinstance(digest, str) or size > SIZE_LIMIT:
        raise ValueDecodeError("$", "the reference to the result store is malformed or too large")
    if result_store is None:
        raise ValueDecodeError("$", f"it is at {url:.200}, and the PanDA connection has no result store any more")
    if not _is_in(result_store, url):
        raise ValueDecodeError("$", f"the reference {url:.200} leads outside of the result store {result_store}")
    content = _read(url, size, timeout)
    if len(content) != size or hashlib.sha256(content).hexdigest() != digest:
        raise ValueDecodeError("$", f"{url} is not what the job stored (size or hash differs)")
    if encoding == "cloudpickle":
        return replace(result, encoding="cloudpickle", payload=content.decode("ascii", "replace"))
    try:
        return replace(result, encoding="json", payload=json.loads(content))
    except (ValueError, RecursionError) as error:
        raise ValueDecodeError("$", f"{url} is no JSON: {error}") from None


def reference_is_gone(result: JobResult, *, result_store: str | None, timeout: float = 60.0) -> bool:
    """Whether a result is a reference to what the store says it does not have; nothing is fetched.

    A store that does not answer may have it.

    :param result_store: base URL of the connection; a reference that leads elsewhere is never followed, nor any
        where there is none any more.
    :param timeout: seconds without an answer.
    """
    if result.encoding != "reference":
        return False
    url = result.payload.get("url") if isinstance(result.payload, Mapping) else None
    if not isinstance(url, str) or result_store is None or not _is_in(result_store, url):
        return True
    parts = urlsplit(url)
    if parts.scheme == "file":
        return not Path(url2pathname(unquote(parts.path))).is_file()
    if parts.scheme not in ("http", "https"):
        return True
    try:
        with urlopen(Request(url, method="HEAD"), timeout=timeout):  # noqa: S310 - scheme checked
            return False
    except HTTPError as error:
        return error.code in (404, 410)
    except (OSError, HTTPException):
        return False


def _is_in(result_store: str, url: str) -> bool:
    base = result_store.rstrip("/") + "/"
    return url.startswith(base) and _NAME.fullmatch(url, len(base)) is not None


def _read(url: str, size: int, timeout: float) -> bytes:
    parts = urlsplit(url)
    try:
        if parts.scheme == "file":
            with open(url2pathname(unquote(parts.path)), "rb") as file:  # noqa: PTH123 - read at most size + 1
                return file.read(size + 1)
        if parts.scheme in ("http", "https"):
            with urlopen(url, timeout=timeout) as answer:  # noqa: S310 - scheme checked
                content: bytes = answer.read(size + 1)
                return content
    except (OSError, HTTPException) as error:
        raise ValueDecodeError("$", f"{url} cannot be fetched: {error}") from None
    raise ValueDecodeError("$", f"{url} is neither a file: nor an http(s): URL")
