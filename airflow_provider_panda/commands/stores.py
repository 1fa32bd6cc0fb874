"""Steps about what PanDA keeps for this Airflow instance: its secret and its files."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass

from airflow_provider_panda.commands.steps import Told, ok, skipped, wrong
from airflow_provider_panda.commands.subject import Subject, send
from airflow_provider_panda.exceptions import ConfigurationError, GridRefusedError
from airflow_provider_panda.grid.names import processing_type, secret_name
from airflow_provider_panda.grid.session import base_url
from airflow_provider_panda.hooks.delivery import secret_delivery


@dataclass(frozen=True, slots=True)
class TrialFile:
    """A small archive by which upload and download are tried.

    :param name: its name in the cache, with the hash of its content.
    :param content: its bytes.
    """

    name: str
    content: bytes


def trial_file(instance: str) -> TrialFile:
    """Return the archive of an Airflow instance: always the same bytes, so that it is uploaded once."""
    text = f"Put here by `airflow panda setup` of the Airflow instance {instance}.\n".encode()
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        member = tarfile.TarInfo("airflow-panda-check.txt")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    content = gzip.compress(tar.getvalue(), mtime=0)
    return TrialFile(f"sources.{hashlib.sha256(content).hexdigest()}.tar.gz", content)


def instance(subject: Subject) -> Told:
    """Say which instance this Airflow is."""
    return ok(f"this Airflow is {subject.instance}")


def tasks(subject: Subject) -> Told:
    """List the tasks of this instance."""
    listed = subject.grid.statuses(processing_type(subject.instance))
    return ok(f"PanDA lists {len(listed)} task(s) of this instance")


def user_secret(subject: Subject) -> Told:
    """Compare what PanDA gives to jobs with what the connections say."""
    if subject.connection.signing == "archive":
        return skipped("signing is 'archive': each task brings its own key")
    name = secret_name(subject.instance)
    stored = subject.grid.secrets().get(name)
    remedy = f"Run `airflow panda setup {subject.conn_id}`"
    if stored is None:
        return wrong(f"PanDA has no {name}, so jobs cannot sign their results. {remedy}")
    try:
        same = json.loads(stored) == json.loads(secret_delivery(subject.connection))
    except ValueError:
        same = False
    if not same:
        return wrong(f"{name} differs from the connections here: jobs would report to another place. {remedy}")
    return ok(f"{name} is stored and current")


def store_user_secret(subject: Subject) -> Told:
    """Give jobs what they need to report back."""
    if subject.connection.signing == "archive":
        return skipped("signing is 'archive': each task brings its own key")
    name = secret_name(subject.instance)
    subject.grid.set_secret(name, secret_delivery(subject.connection))
    broker = subject.connection.broker_conn_id
    return ok(f"stored {name} with PanDA ({f'the broker of {broker}' if broker else 'no broker'})")


def upload(subject: Subject) -> Told:
    """Put the trial file into the cache."""
    file = trial_file(subject.instance)
    subject.grid.upload(file.name, file.content)
    return ok(f"{len(file.content)} bytes are in the cache as {short(file.name)}")


def download(subject: Subject) -> Told:
    """Fetch the trial file as a worker node does: without credentials."""
    file = trial_file(subject.instance)
    base = base_url(subject.endpoint.cache_url or subject.endpoint.url)
    reply = send(subject.stranger, f"{base}/cache/{file.name}")
    if reply.status == 404:
        return skipped(
            f"{short(file.name)} is not in the cache of {base}: PanDA deletes files after 7 days. "
            f"`airflow panda setup {subject.conn_id}` puts it there and fetches it"
        )
    if reply.status != 200:
        raise GridRefusedError(
            f"The cache at {base} answers with HTTP {reply.status}, so jobs could not fetch their function. "
            "Check the connection field cache_url",
            url=reply.url,
        )
    if reply.body != file.content:
        raise ConfigurationError(
            "cache", f"{base} sends other bytes than were uploaded ({len(reply.body)})", "Check the field cache_url"
        )
    return ok(f"{len(reply.body)} bytes came back from {base}, without credentials, as on a worker node")


def short(name: str) -> str:
    """Return a file name with its hash cut short."""
    return f"{name[:16]}…{name[-11:]}" if len(name) > 40 else name
