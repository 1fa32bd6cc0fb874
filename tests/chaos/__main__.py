"""Command line: ``python -m tests.chaos --minutes 20 --seed 7``."""

from __future__ import annotations

import argparse
import logging
import random
import shlex
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.installation import remove
from tests.chaos.plan import ALL_KINDS, IDDS_KINDS
from tests.chaos.run import Options, run
from tests.stack import stack

log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Do one run, print what came of it, and return 0 if nothing was lost, doubled, orphaned, or died."""
    args = _parser().parse_args(arguments)
    if reason := stack.missing():
        print(reason, file=sys.stderr)
        return 2
    chosen = [ALL_KINDS[name] for name in args.kinds or [*ALL_KINDS]]
    if args.no_idds:
        chosen = [kind for kind in chosen if kind.name not in IDDS_KINDS]
    options = Options(
        seed=random.randrange(10**6) if args.seed is None else args.seed,
        seconds=args.minutes * 60,
        gap=args.gap,
        kinds=chosen,
        least_tasks=args.tasks,
        jobs=args.jobs_per_task,
    )
    # Ctrl-C and SIGTERM end the run, and with it everything it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    log.info("seed %d, folder %s", options.seed, folder)
    kept = True
    try:
        report = run(options, folder)
        print(report.text(), flush=True)
        kept = args.keep or bool(report.complaints())
        return 1 if report.complaints() else 0
    finally:
        if kept:
            again = shlex.join(["python", "-m", "tests.chaos", *arguments, f"--seed={options.seed}"])
            print(f"logs: {folder}; the same faults: {again}", file=sys.stderr)
        else:
            remove(folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description="Fault injection; see docs/reliability.md."
    )
    add = parser.add_argument
    add("--minutes", type=float, default=20, help="how long faults happen (default: %(default)s)")
    add("--seed", type=int, help="of the faults; a random one if none is given, which is printed")
    add("--gap", type=float, default=6, metavar="SECONDS", help="mean time between two faults (default: %(default)s)")
    add("--tasks", type=int, default=300, metavar="N", help="grid tasks to start at least (default: %(default)s)")
    add("--jobs-per-task", type=int, default=8, metavar="N", help="jobs of a mapped task (default: %(default)s)")
    add("--kinds", nargs="+", choices=sorted(ALL_KINDS), metavar="KIND", help=f"only these: {', '.join(ALL_KINDS)}")
    add("--no-idds", action="store_true", help="without the real iDDS and the tasks through it")
    add("--keep", action="store_true", help="keep the folder of the logs also after a success")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
