"""Puts a large result into the result store: a directory (``file:///dir``) or an HTTP server that takes PUT.

Shipped to the worker node: standard library only, Python 3.9-3.13.
"""

from __future__ import annotations

import os
import time

ATTEMPTS = 4
TIMEOUT = 60.0
"""Seconds one HTTP request may take."""


def put(base: str, name: str, content: bytes) -> str:
    """Store ``content`` under ``base/name`` and return its URL.

    :raises OSError: the store does not take it after a few tries.
    :raises ValueError: the URL is of another kind.
    """
    from urllib.parse import quote, unquote, urlsplit

    url = base.rstrip("/") + "/" + quote(name)
    parts = urlsplit(url)
    if parts.scheme == "file":
        path = unquote(parts.path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path + ".part", "wb") as file:
            file.write(content)
        os.replace(path + ".part", path)
        return url
    if parts.scheme not in ("http", "https"):
        raise ValueError("%r is neither a file: nor an http(s): URL" % base)
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    request = Request(url, data=content, method="PUT", headers={"Content-Type": "application/json"})  # noqa: S310 - scheme checked
    for attempt in range(ATTEMPTS):
        try:
            with urlopen(request, timeout=TIMEOUT):  # noqa: S310 - scheme checked
                return url
        except (OSError, HTTPException) as error:
            if attempt == ATTEMPTS - 1 or (isinstance(error, HTTPError) and error.code < 500):
                raise OSError(str(error)) from None
            time.sleep(2.0**attempt)
    raise AssertionError("unreachable")
