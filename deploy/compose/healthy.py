"""Health check by HTTP: ``healthy.py URL [--status CODE] [--component NAME]``; exit code 0 if healthy.

The slim images have no curl. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import sys
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

TIMEOUT = 8.0
"""Seconds that a service may take to answer."""


def problem(url: str, *, status: int, component: str | None) -> str | None:
    """Return what is wrong with a service, or None.

    :param url: what to GET.
    :param status: the HTTP status of a healthy answer.
    :param component: one of the components in Airflow's ``/api/v2/monitor/health``, which must be healthy.
    """
    try:
        with urlopen(url, timeout=TIMEOUT) as answer:  # noqa: S310 - the URL is in docker-compose.yml
            got, body = answer.status, answer.read()
    except HTTPError as error:
        got, body = error.code, b""
    except (URLError, OSError) as error:
        return f"{url}: {error}"
    if got != status:
        return f"{url}: HTTP {got}, not {status}"
    if component is None:
        return None
    try:
        state = json.loads(body)[component]["status"]
    except (ValueError, KeyError, TypeError):
        return f"{url}: says nothing of {component}"
    return None if state == "healthy" else f"{component} is {state}"


def main(arguments: list[str]) -> int:
    """Check once and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--status", type=int, default=200)
    parser.add_argument("--component")
    args = parser.parse_args(arguments)
    found = problem(args.url, status=args.status, component=args.component)
    if found:
        print(found, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
