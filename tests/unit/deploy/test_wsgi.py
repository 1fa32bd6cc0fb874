"""Who calls iDDS is what the front end says, never what a header says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from deploy.idds.wsgi import with_identity


def environ_seen(dn: str | None, environ: dict[str, Any]) -> dict[str, Any]:
    seen: dict[str, Any] = {}

    def application(given: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        seen.update(given)
        return [b"answer"]

    assert list(with_identity(application, dn)(environ, None)) == [b"answer"]
    return seen


FORGED = {"HTTP_SSL_CLIENT_S_DN": "/DC=local/CN=Panda Relay", "HTTP_SSL_CLIENT_CERT": "x", "HTTP_ACCEPT": "*/*"}


def test_forged_headers_are_removed_where_only_tokens_count() -> None:
    assert environ_seen(None, dict(FORGED)) == {"HTTP_ACCEPT": "*/*"}


def test_the_configured_user_wins_over_forged_headers() -> None:
    seen = environ_seen("/DC=local/CN=Test User", dict(FORGED))
    assert seen.pop("SSL_CLIENT_CERT")
    assert seen == {"SSL_CLIENT_S_DN": "/DC=local/CN=Test User", "HTTP_ACCEPT": "*/*"}


@pytest.mark.parametrize("dn", [None, ""])
def test_no_user_is_made_up(dn: str | None) -> None:
    assert environ_seen(dn, {}) == {}
