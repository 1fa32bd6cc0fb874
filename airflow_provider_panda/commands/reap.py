"""``airflow panda reap CONN``: find and kill grid tasks of this Airflow that nobody waits for."""

from __future__ import annotations

import json
import sys
from argparse import Namespace

from airflow_provider_panda import configuration
from airflow_provider_panda.commands import read_connections_from_database
from airflow_provider_panda.exceptions import PandaProviderError
from airflow_provider_panda.hooks.panda import PandaHook
from airflow_provider_panda.reaping.database import DatabaseWitness
from airflow_provider_panda.reaping.reaper import Harvest, reaper_of


def reap(args: Namespace) -> None:
    """Print a line a task and totals; exit with 1 if something could not be asked or killed."""
    read_connections_from_database()
    try:
        harvest = _reap(args)
    except PandaProviderError as error:
        harvest = Harvest(troubles=[str(error)], dry_run=args.dry_run)
    if args.output == "json":
        print(json.dumps({"connection": args.conn_id, **harvest.to_json()}, indent=2))
    else:
        print("\n".join(harvest.lines()))
    sys.exit(0 if harvest.good else 1)


def _reap(args: Namespace) -> Harvest:
    hook = PandaHook(args.conn_id)
    instance = configuration.instance(hook.get_conn().instance_secret, conn_id=args.conn_id)
    reaper = reaper_of(hook, instance, DatabaseWitness(instance), grace=args.grace)
    return reaper.reap(dry_run=args.dry_run, unknown=args.unknown)
