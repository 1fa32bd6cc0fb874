"""iDDS's REST service as a WSGI application that tells the service who calls.

iDDS takes a caller's DN from the WSGI environment, where Apache's mod_ssl puts it, and failing that from request
headers, which any caller can forge (facts/idds.md section 2). Here the headers are removed. The DN is the one of
``IDDS_DEPLOY_CLIENT_DN``, for a service that only one user reaches (tests, a laptop); without it, only tokens are
accepted (auth type ``oidc``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

FORGEABLE = ("HTTP_SSL_CLIENT_S_DN", "HTTP_SSL_CLIENT_CERT")
CLIENT_DN_VARIABLE = "IDDS_DEPLOY_CLIENT_DN"

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]


def with_identity(application: Wsgi, dn: str | None) -> Wsgi:
    """Return an application that knows its caller by a fixed DN, or by token only.

    :param dn: distinguished name, ``/DC=.../CN=...``; None: no caller has one.
    """

    def identified(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        for name in FORGEABLE:
            environ.pop(name, None)
        if dn:
            environ["SSL_CLIENT_S_DN"] = dn
            # iDDS asks that there is a certificate, and does not read it.
            environ["SSL_CLIENT_CERT"] = "checked by the front end"
        return application(environ, start_response)

    return identified


def application() -> Wsgi:
    """Return the service; for ``gunicorn 'deploy.idds.wsgi:application()'``."""
    from idds.rest.v1.app import create_app

    return with_identity(create_app(), os.environ.get(CLIENT_DN_VARIABLE))
