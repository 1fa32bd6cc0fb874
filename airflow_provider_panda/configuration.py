"""The one place that reads Airflow's configuration: section ``[panda]``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from airflow.providers.common.compat.sdk import conf

from airflow_provider_panda.exceptions import ConfigurationError

SECTION = "panda"


def instance(instance_secret: str | None, *, conn_id: str) -> str:
    """Return the four characters of this Airflow instance: ``[panda] instance``, else derived from the secret.

    :param instance_secret: the instance secret of the connection ``conn_id``.
    :raises ConfigurationError: neither is set, or the option has another form.
    """
    configured: str = conf.get(SECTION, "instance", fallback="").strip()
    if configured:
        if (
            len(configured) != 4
            or not configured.isascii()
            or not configured.isalnum()
            or configured != configured.lower()
        ):
            raise ConfigurationError(
                "Airflow option [panda] instance",
                f"{configured!r} is not four lower-case letters or digits",
                "Set it to such a name, the same on every component of this Airflow, or leave it out",
            )
        return configured
    if not instance_secret:
        raise ConfigurationError(
            f"connection {conn_id}, field instance_secret",
            "it is empty, so results could not be verified",
            f"Run `airflow panda setup {conn_id}`",
        )
    from airflow_provider_panda.grid.task import instance_id

    return instance_id(instance_secret)


def settle_time() -> float:
    """Return the seconds after its submission before which a task is not resumed."""
    return max(0.0, float(conf.getfloat(SECTION, "settle_time", fallback=5.0)))


def end_in_triggerer() -> bool:
    """Return whether a trigger may end a task for which nothing is left to a worker."""
    return bool(conf.getboolean(SECTION, "end_in_triggerer", fallback=True))


def on_retry() -> Literal["attach", "resubmit"]:
    """Return what a further try does with a task that an earlier one submitted and never waited for.

    :raises ConfigurationError: the option has another value.
    """
    configured: str = conf.get(SECTION, "on_retry", fallback="attach").strip().lower()
    if configured not in ("attach", "resubmit"):
        raise ConfigurationError(
            "Airflow option [panda] on_retry", f"{configured!r} is unknown", "Set it to attach or resubmit"
        )
    return "attach" if configured == "attach" else "resubmit"


def poll_interval() -> float:
    """Return the seconds between two status requests for all waiting tasks of a connection."""
    return max(1.0, float(conf.getfloat(SECTION, "poll_interval", fallback=60.0)))


def home() -> Path:
    """Return AIRFLOW_HOME."""
    from airflow.configuration import AIRFLOW_HOME

    return Path(AIRFLOW_HOME)
