"""``airflow panda grid``: run the embedded grid in the foreground."""

from __future__ import annotations

import sys
from argparse import Namespace


def grid(args: Namespace) -> None:
    """Run until SIGTERM or Ctrl-C; the first line printed is JSON with the addresses."""
    from airflow_provider_panda.local import options_from, run

    sys.exit(run(options_from(args)))
