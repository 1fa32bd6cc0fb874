"""Which captured exchanges and which calls the suite covers, as a table."""

from __future__ import annotations

from fnmatch import fnmatch

from airflow_provider_panda.local.api import ENDPOINTS

from .description import described
from .gaps import NOT_COVERED, NOT_DESCRIBED, NOT_HERE, NOT_HERE_FACTS, SERVER_DEVIATES
from .refusals import REFUSALS
from .samples import exchanges, messages
from .situations import SITUATIONS


def here() -> set[str]:
    """Return the calls of the embedded grid as ``module/name``."""
    return {f"{module}/{name}" for module, name in ENDPOINTS}


def reason_not_here(call: str) -> str | None:
    """Return why the embedded grid does not have a described call, or None if nobody says."""
    return next((reason for pattern, reason in NOT_HERE.items() if fnmatch(call, pattern)), None)


def coverage() -> str:
    """Return the table."""
    lines = ["captured exchanges (tests/samples/panda):"]
    for name in exchanges():
        lines.append(
            f"  {name:55} {'covered' if name in SITUATIONS else 'NOT: ' + NOT_COVERED.get(name, 'nobody says why')}"
        )
    lines += [f"  {name:55} covered" for name in messages()]
    lines.append("calls of the published description that the embedded grid does not have:")
    lines += [f"  {call:55} {reason_not_here(call)}" for call in sorted(described() - here())]
    lines.append("what the real server has beyond the description, and the embedded grid has not:")
    lines += [f"  {call:55} {reason}" for call, reason in NOT_HERE_FACTS.items()]
    lines.append("calls that both have, and the description has not:")
    lines += [f"  {call:55} {reason}" for call, reason in NOT_DESCRIBED.items()]
    lines.append("where the real server does not keep to its description:")
    lines += [f"  {call:55} {reason}" for call, reason in SERVER_DEVIATES.items()]
    lines.append("what facts/panda.md says without a captured exchange, and the suite checks:")
    lines += [f"  {name}" for name in REFUSALS]
    covered = len(SITUATIONS) + len(messages())
    lines.append(
        f"{covered} of {len(exchanges()) + len(messages())} captured exchanges covered,"
        f" {len(described() & here())} of {len(described())} described calls here"
    )
    return "\n".join(lines)
