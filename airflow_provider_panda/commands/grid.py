"""``airflow panda grid``: run the embedded grid in the foreground."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from airflow_provider_panda.local import add_arguments, options_from, run


def grid(args: argparse.Namespace) -> None:
    """Run until SIGTERM or Ctrl-C; the one line on stdout is JSON with the addresses.

    The options that ``airflow panda grid`` does not have keep the embedded grid's own defaults; all of them are
    there with ``python -m airflow_provider_panda.local``.
    """
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = vars(parser.parse_args([]))
    given = {name: value for name, value in vars(args).items() if name in options and value is not None}
    if "data" in given:
        given["data"] = Path(given["data"])
    sys.exit(run(options_from(argparse.Namespace(**{**options, **given}))))
