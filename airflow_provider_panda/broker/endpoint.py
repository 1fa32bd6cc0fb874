"""Where a STOMP broker is and how to log in: the value that crosses the seam between hooks and the hub."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerTLS:
    """TLS of a broker connection.

    :param ca_file: file of CA certificates; None for the system's.
    :param cert_file: client certificate, PEM.
    :param key_file: key of the client certificate, PEM.
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerEndpoint:
    """One broker, or several addresses of one.

    Hashable by value: a process has one hub per endpoint.

    :param addresses: ``(host, port)`` pairs; a host name may resolve to several brokers, and all are listened to.
    :param login: user that may subscribe.
    :param passcode: its password; never in ``repr``.
    :param tls: TLS settings, or None for plain TCP.
    :param result_destination: where workers send results.
    :param status_destination: where PanDA sends task and job status (``/topic/panda_idds``), or None.
    :param heartbeat: seconds between heart-beats in each direction.
    :param publisher_login: publish-only user for workers; None: ``login`` is used.
    :param publisher_passcode: its password; never in ``repr``.
    """

    addresses: tuple[tuple[str, int], ...]
    login: str | None = None
    passcode: str | None = field(default=None, repr=False)
    tls: BrokerTLS | None = None
    result_destination: str = "/topic/airflow.panda.results"
    status_destination: str | None = None
    heartbeat: float = 10.0
    publisher_login: str | None = None
    publisher_passcode: str | None = field(default=None, repr=False)
