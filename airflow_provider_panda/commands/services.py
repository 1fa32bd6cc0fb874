"""Steps about the services beside PanDA: iDDS and the broker."""

from __future__ import annotations

from collections.abc import Sequence

from airflow_provider_panda.broker.selftest import AddressCheck, Stage
from airflow_provider_panda.commands.steps import Told, ok, skipped, warn, wrong
from airflow_provider_panda.commands.subject import Subject

STAGES = tuple(Stage)


def idds(subject: Subject) -> Told:
    """Ask iDDS whether it is there, directly or by PanDA's relay."""
    connection = subject.connection
    if connection.service != "idds":
        return skipped("the connection's service is panda")
    from airflow_provider_panda.grid.idds.client import IddsClient
    from airflow_provider_panda.grid.idds.endpoint import IddsEndpoint

    endpoint = IddsEndpoint(panda=connection.endpoint, host=connection.idds_host)
    IddsClient(endpoint).ping()
    return ok(f"{endpoint.name} answers and accepts the credentials")


def broker_login(subject: Subject) -> Told:
    """Log in at every address as the one who subscribes."""
    if subject.broker is None:
        return skipped("the connection names no broker (broker_conn_id): results come from PanDA's record, later")
    return stage_told((Stage.RESOLVE, Stage.LOGIN), subject.broker_checks, f"as {subject.broker.login or 'nobody'}")


def broker_subscribe(subject: Subject) -> Told:
    """Subscribe to the results."""
    if subject.broker is None:
        return skipped("no broker")
    return stage_told((Stage.SUBSCRIBE,), subject.broker_checks, f"to {subject.broker.result_destination}")


def broker_publish(subject: Subject) -> Told:
    """Log in as worker nodes do, and publish."""
    broker = subject.broker
    if broker is None:
        return skipped("no broker")
    told = stage_told(
        (Stage.PUBLISHER, Stage.PUBLISH),
        subject.broker_checks,
        f"as {broker.publisher_login or broker.login or 'nobody'}",
    )
    if told.verdict.value == "ok" and broker.login and not broker.publisher_login:
        return warn(f"{told.text}: worker nodes get the login that may subscribe. Give a publish-only one")
    return told


def broker_delivery(subject: Subject) -> Told:
    """Receive what was published."""
    if subject.broker is None:
        return skipped("no broker")
    checks = subject.broker_checks
    times = ", ".join(f"{1000 * check.seconds:.0f} ms" for check in checks if check.seconds is not None)
    return stage_told((Stage.DELIVER,), checks, f"received what was published ({times})")


def stage_told(stages: Sequence[Stage], checks: Sequence[AddressCheck], text: str) -> Told:
    """Return what to say of some stages of a trial of all addresses.

    :param stages: the stages, in order.
    :param checks: what came of each address; those that failed earlier are not counted here.
    :param text: what to say if all is well.
    """
    first, last = STAGES.index(stages[0]), STAGES.index(stages[-1])
    problems, passed = [], []
    for check in checks:
        place = len(STAGES) if check.failed_at is None else STAGES.index(check.failed_at)
        if first <= place <= last:
            problems.append(str(check.problem))
        elif place > last:
            passed.append(check.address)
    if problems:
        also = f" ({len(passed)} other address(es) work)" if passed else ""
        return wrong(f"{'; '.join(problems)}{also}. Mend the broker connection, or ask the broker's operators")
    return ok(f"{text} at {', '.join(passed)}")
