"""Which iDDS, and by which way: the value that crosses the seam between hooks and iDDS's client."""

from __future__ import annotations

from dataclasses import dataclass

from airflow_provider_panda.grid.endpoint import PandaEndpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class IddsEndpoint:
    """One iDDS and one identity. Hashable by value.

    :param panda: the PanDA server and the identity; the same token or proxy is shown to iDDS.
    :param host: base URL of the iDDS REST service, or None: the PanDA server relays commands to the one it knows.
    """

    panda: PandaEndpoint
    host: str | None = None

    @property
    def relayed(self) -> bool:
        """Whether commands go through the PanDA server."""
        return self.host is None

    @property
    def name(self) -> str:
        """What the service is called in messages."""
        return f"iDDS at {self.host}" if self.host else f"iDDS behind PanDA at {self.panda.url}"
