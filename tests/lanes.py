"""The lanes of ``make test``: processes of pytest-xdist, of which each runs whole folders with services of its own."""

from __future__ import annotations

from typing import Final

from xdist.scheduler import LoadScopeScheduling

WITH_AIRFLOW: Final = ("tests/chaos", "tests/integration/deploy", "tests/system")
"""Folders whose tests start an Airflow: they share a lane, so that there is one at a time."""


class Lanes(LoadScopeScheduling):
    """Gives each lane folders in the order in which pytest collects them."""

    def _split_scope(self, nodeid: str) -> str:
        return lane_of(nodeid)


def lane_of(nodeid: str) -> str:
    """Return what tests have in common that run in one lane, one after the other.

    :param nodeid: pytest's name of a test, which begins with its path in the checkout.
    """
    folder = "/".join(nodeid.split("::")[0].split("/")[:-1][:3])
    return "Airflow" if folder.startswith(WITH_AIRFLOW) else folder
