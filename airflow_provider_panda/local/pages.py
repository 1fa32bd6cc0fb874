"""Small web pages of the embedded grid: tasks, jobs, payload logs. No secrets, whatever they were put into."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any, Final

from airflow_provider_panda.local.directories import Directories
from airflow_provider_panda.local.state import JobState, TaskState
from airflow_provider_panda.local.store import Store

TASKS_SHOWN: Final = 200
JOBS_SHOWN: Final = 500
LOG_TAIL: Final = 64 * 1024
MASKED: Final = "********"
_SECRET_NAME = re.compile(r"token|passcode|password|passwd|secret|credential|private|signing|api_?key|auth", re.I)
_SECRET_TEXT = re.compile(
    r"(?i)((?:token|passcode|password|passwd|secret|signing|api_?key|authorization)[\w-]*['\"]?\s*[=:]\s*['\"]?)"
    r"(?:bearer\s+)?[^\s'\",;&]+|eyJ[\w-]+\.[\w-]+\.[\w-]+"
)
_STYLE = (
    "body{font-family:system-ui,sans-serif;margin:2rem;color:#222}table{border-collapse:collapse}"
    "td,th{padding:.25rem .8rem;border-bottom:1px solid #ddd;text-align:left}pre{background:#f4f4f4;padding:1rem;"
    "overflow:auto;max-height:40rem}.note{background:#fff3cd;padding:.5rem 1rem;border-radius:.3rem}"
    ".done,.finished{color:#176f2c}.failed,.broken,.aborted,.cancelled{color:#b3261e}"
)


def mask(value: Any) -> Any:
    """Return a value of task parameters with everything hidden that looks like a secret."""
    if isinstance(value, dict):
        return {
            k: MASKED if _SECRET_NAME.search(str(k)) and not isinstance(v, bool) else mask(v) for k, v in value.items()
        }
    if isinstance(value, list):
        return [mask(item) for item in value]
    return mask_text(value) if isinstance(value, str) else value


def mask_text(text: str) -> str:
    """Return text with everything hidden that looks like a secret."""
    return _SECRET_TEXT.sub(lambda m: (m.group(1) or "") + MASKED, text)


def _time(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _state(state: TaskState | JobState) -> str:
    return f'<span class="{state.value}">{state.value}</span>'


def _table(heads: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{h}</th>" for h in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _page(title: str, body: str) -> str:
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<style>{_STYLE}</style></head><body><p class="note">This is the <b>embedded grid</b> of '
        "airflow-provider-panda, for development and tests. It is no PanDA server; jobs are processes of this machine."
        f'</p><p><a href="/">all tasks</a></p><h1>{escape(title)}</h1>{body}</body></html>'
    )


class Pages:
    """Makes the pages."""

    def __init__(self, store: Store, directories: Directories) -> None:
        self._store, self._directories = store, directories

    def overview(self) -> str:
        """Return the page of all tasks."""
        counts = ", ".join(f"{n} {state}" for state, n in sorted(self._store.tasks.count().items())) or "none yet"
        rows = [
            [
                f'<a href="/task/{t.task_id}/">{t.task_id}</a>',
                escape(t.name),
                _state(t.state),
                f"{t.n_finished} / {t.n_inputs}",
                str(t.n_failed),
                escape(t.owner),
                _time(t.created),
                _time(t.ended),
            ]
            for t in self._store.tasks.newest(TASKS_SHOWN)
        ]
        heads = ["Task", "Name", "State", "Finished", "Failed", "Owner", "Created (UTC)", "Ended (UTC)"]
        return _page("Tasks of the embedded grid", f"<p>{escape(counts)}</p>" + _table(heads, rows))

    def task(self, task_id: int) -> str | None:
        """Return the page of a task, or None."""
        task = self._store.tasks.get(task_id)
        if task is None:
            return None
        jobs = self._store.jobs.of(task_id, limit=JOBS_SHOWN, newest=True)
        lfns = {i.chunk: i.lfn for i in self._store.inputs.of(task_id)} if len(jobs) <= JOBS_SHOWN else {}
        rows = [
            [
                f'<a href="/job/{j.panda_id}/">{j.panda_id}</a>',
                escape(lfns.get(j.chunk, "")),
                str(j.attempt),
                _state(j.state),
                escape(j.trans_exit_code or ""),
                escape(mask_text(j.pilot_error_diag or j.dispatcher_error_diag or j.buffer_error_diag or "")[:200]),
                _time(j.started),
                _time(j.ended),
            ]
            for j in jobs
        ]
        dialog = f"<p>{escape(mask_text(task.error_dialog))}</p>" if task.error_dialog else ""
        counts = ", ".join(f"{n} {state}" for state, n in sorted(self._store.jobs.counts(task_id).items()))
        params = json.dumps(mask(_shortened(json.loads(task.params))), indent=1)
        heads = ["Job", "Input", "Attempt", "State", "Exit", "Error", "Started (UTC)", "Ended (UTC)"]
        return _page(
            f"Task {task_id}",
            f"<p><b>{escape(task.name)}</b>: {_state(task.state)}; {task.n_finished} of {task.n_inputs} inputs "
            f"finished, {task.n_failed} failed; jobs: {escape(counts) or 'none yet'}</p>{dialog}"
            f"{_table(heads, rows)}<h2>Parameters</h2><pre>{escape(params)}</pre>",
        )

    def job(self, panda_id: int) -> str | None:
        """Return the page of a job with the ends of its payload's logs, or None."""
        job = self._store.jobs.get(panda_id)
        if job is None:
            return None
        logs = self._directories.log_of(job)
        facts = {
            "task": f'<a href="/task/{job.task_id}/">{job.task_id}</a>',
            "state": _state(job.state),
            "attempt": str(job.attempt),
            "queue, host": escape(f"{job.queue or ''}, {job.host or ''}"),
            "exit code": escape(job.trans_exit_code or ""),
            "pilot": escape(mask_text(f"{job.pilot_error_code} {job.pilot_error_diag or ''}")),
            "payload": escape(mask_text(f"{job.exe_error_code} {job.exe_error_diag or ''}")),
            "server": escape(mask_text(job.dispatcher_error_diag or job.buffer_error_diag or "")),
            "started, ended (UTC)": f"{_time(job.started)}, {_time(job.ended)}",
            "logs": escape(str(logs)),
        }
        tails = "".join(
            f"<h2>{name}</h2><pre>{escape(mask_text(self._tail(logs / name)))}</pre>"
            for name in ("payload.stderr", "payload.stdout")
        )
        return _page(f"Job {panda_id}", _table(["", ""], [[k, v] for k, v in facts.items()]) + tails)

    @staticmethod
    def _tail(path: Path) -> str:
        try:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - LOG_TAIL))
                return file.read().decode(errors="replace")
        except OSError:
            return "(none)"


def _shortened(params: Any) -> Any:
    """Return parameters with long lists cut, for a page."""
    if isinstance(params, dict):
        return {k: _shortened(v) for k, v in params.items()}
    if isinstance(params, list):
        cut = [_shortened(v) for v in params[:20]]
        return [*cut, f"... {len(params) - 20} more"] if len(params) > 20 else cut
    return params[:2000] if isinstance(params, str) else params
