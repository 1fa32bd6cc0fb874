"""Times in PanDA's own form."""

from __future__ import annotations

from datetime import UTC, datetime


def moment(seconds: float | None) -> datetime | None:
    """Return a Unix time as PanDA has times: UTC, without saying so."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
