"""Steps about who asks: token or proxy, VO, role, and the queue that is asked for."""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from airflow_provider_panda.commands.steps import Told, ok, skipped, warn, wrong
from airflow_provider_panda.commands.subject import Subject, call, token_of
from airflow_provider_panda.exceptions import GridError
from airflow_provider_panda.grid import answers
from airflow_provider_panda.grid.endpoint import TOKEN_KINDS, AuthKind
from airflow_provider_panda.grid.identity.certificates import identity_of
from airflow_provider_panda.grid.identity.credentials import user_name
from airflow_provider_panda.grid.identity.tokens import expiry, groups, utc_time
from airflow_provider_panda.grid.identity.tokenstore import TokenStore

SHORT: Final = 3600.0
"""Seconds left of a token or proxy that nothing renews, under which a user should hear of it."""


def credentials(subject: Subject) -> Told:
    """Look at the token or proxy: where it is from, how long it is good, whether it can be renewed."""
    endpoint = subject.endpoint
    if endpoint.auth is AuthKind.NONE:
        return warn("the connection has none; PanDA takes no tasks from strangers. Set auth and a token or proxy")
    if endpoint.auth is AuthKind.X509:
        identity = identity_of(endpoint)
        identity.check(time.time())
        if identity.validity is None:
            return warn(f"the certificate in {endpoint.proxy_file} cannot be read, only used")
        what = f"proxy {Path(endpoint.proxy_file or '').name} of {identity.validity.subject}"
        return life_told(what, identity.validity.ends, renewable=False, now=time.time())
    store = TokenStore(endpoint)
    token = token_of(endpoint) or ""
    owner = user_name(token)
    what = f"{store.source}{f' of {owner}' if owner else ''}"
    renewable = store.read().refresh_token is not None
    return life_told(what, expiry(token), renewable=renewable, now=time.time())


def life_told(what: str, ends: float | None, *, renewable: bool, now: float) -> Told:
    """Return what to say of a token or proxy that is good now.

    :param what: the token or proxy in words.
    :param ends: Unix time in seconds at which it expires, if it says so.
    :param renewable: whether it renews itself.
    """
    how = "; a refresh token renews it" if renewable else ""
    if ends is None:
        return ok(f"{what}: does not say how long it is good{how}")
    text = f"{what}: good for {duration(ends - now)}, until {utc_time(ends)}{how}"
    if not renewable and ends - now < SHORT:
        return warn(f"{text}. Renew it soon, or give a refresh token (auth = refresh)")
    return ok(text)


def duration(seconds: float) -> str:
    """Return a time span in its two largest units."""
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min" if minutes else f"{int(seconds)} s"
    if minutes < 2 * 1440:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} days"


def vo(subject: Subject) -> Told:
    """Ask PanDA for something that any member of the VO may read."""
    endpoint = subject.endpoint
    refusal = subject.refusal
    name, role = split_vo(endpoint.vo)
    if refusal is not None and role and subject.refused_as(name) is None:
        refusal = None  # only the role is refused
    if refusal is not None:
        return wrong(explained(refusal, _groups(subject)))
    if endpoint.auth not in TOKEN_KINDS:
        return ok("PanDA accepts the certificate; it says the VO itself")
    return ok(f"PanDA accepts the token for {name}")


def role(subject: Subject) -> Told:
    """See whether PanDA accepts the role."""
    _, wanted = split_vo(subject.endpoint.vo)
    if not wanted:
        return skipped("the connection asks for none")
    if subject.refusal is not None:
        return wrong(explained(subject.refusal, _groups(subject)))
    return ok(f"PanDA accepts the token for the role {wanted}")


def split_vo(text: str) -> tuple[str, str]:
    """Return VO and role of ``vo``, ``vo.role`` or ``vo:role``."""
    name, _, wanted = text.replace(":", ".").partition(".")
    return name, wanted


def explained(refusal: GridError, member_of: Collection[str]) -> str:
    """Return a refusal with what is known about its cause.

    :param member_of: groups in the token.
    """
    text = str(refusal)
    if "Not a member of" in text:
        named = ", ".join(member_of) or "none"
        return f"{text}. The token's groups are: {named}. Ask the administrators of the VO for the group"
    if "Unknown vo" in text:
        return f"{text}. Correct the connection field vo; PanDA's operators know the names"
    return text


def queue(subject: Subject) -> Told:
    """See whether PanDA has the connection's queue (metaconfig/get_site_specs; a submission would not tell)."""
    wanted = subject.connection.queue
    if not wanted:
        return skipped("the connection names none: PanDA chooses")
    try:
        listed = answers.granted(call(subject.endpoint, "metaconfig/get_site_specs", type="all"))
    except GridError as error:
        return skipped(f"not checked, for this server lists no queues to us ({error})")
    return queue_told(wanted, listed)


def queue_told(wanted: str, listed: Any) -> Told:
    """Return what to say of a queue.

    :param wanted: its name, or a regular expression.
    :param listed: PanDA's queues by name.
    """
    if not isinstance(listed, dict) or not listed:
        return skipped("not checked, for this server lists no queues to us")
    if wanted in listed:
        spec = listed[wanted]
        status = spec.get("status") if isinstance(spec, dict) else None
        if isinstance(status, str) and status not in ("online", "test", ""):
            return warn(f"PanDA has {wanted}, but its status is {status}: tasks may wait there for good")
        return ok(f"PanDA has {wanted}{f' ({status})' if status else ''}")
    try:
        fitting = [name for name in listed if re.search(wanted, str(name))]
    except re.error:
        fitting = []
    if fitting:
        return ok(f"{wanted} fits {len(fitting)} of PanDA's queues, such as {fitting[0]}")
    like = difflib.get_close_matches(wanted, [str(name) for name in listed], n=3)
    hint = f"; did you mean {' or '.join(like)}?" if like else ""
    return wrong(
        f"PanDA has no queue {wanted} among its {len(listed)}{hint} Tasks would wait for good. "
        "Correct the connection field queue"
    )


def _groups(subject: Subject) -> tuple[str, ...]:
    if subject.endpoint.auth not in TOKEN_KINDS:
        return ()
    return groups(token_of(subject.endpoint) or "")
