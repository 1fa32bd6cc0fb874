"""``python -m airflow_provider_panda.local``: start an embedded grid."""

from __future__ import annotations

import argparse
import sys

from airflow_provider_panda.local import add_arguments, options_from, run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m airflow_provider_panda.local", description=__doc__)
    add_arguments(parser)
    sys.exit(run(options_from(parser.parse_args())))
