"""A task parameter map refined into what JEDI works on: inputs, job parameters, files.

After GenTaskRefiner and the job generator of panda-server 1.0.4 (facts/panda.md sections 3 and 7).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

REQUIRED: Final = (
    "taskName",
    "userName",
    "vo",
    "taskPriority",
    "architecture",
    "transUses",
    "transHome",
    "processingType",
    "prodSourceLabel",
    "taskType",
    "jobParameters",
)
MAX_INPUTS: Final = 200_000
PSEUDO_DATASET: Final = "pseudo_dataset"
PSEUDO_LFN: Final = "pseudo_lfn"
DEFAULT_TRANSFORM: Final = "https://pandaserver-doma.cern.ch/trf/user/runGen-00-00-02"
"""What a task without transPath gets from GenTaskRefiner; prun leaves it to that."""


class BrokenTaskError(Exception):
    """The parameters cannot be refined; the text becomes the task's errorDialog."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputTemplate:
    """One kind of output file of every job.

    :param kind: ``output`` or ``log``.
    :param dataset: name of the dataset.
    :param pattern: file name with ``${SN}`` for the job's serial number.
    :param token: destination token.
    """

    kind: str
    dataset: str
    pattern: str
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refined:
    """What a task comes to.

    :param lfns: name of each input.
    :param per_job: inputs of one job.
    :param max_attempt: attempts per input.
    :param auto_retry: whether a failed attempt is followed by another.
    :param template: job parameters with placeholders that depend on the job.
    :param outputs: files of every job.
    :param first_number: what ``${SEQNUMBER}`` is in the first job.
    :param params: the parameter map as JEDI keeps it.
    :param split_rule: JEDI's splitRule.
    """

    lfns: tuple[str, ...]
    per_job: int
    max_attempt: int
    auto_retry: bool
    template: str
    outputs: tuple[OutputTemplate, ...]
    first_number: int
    params: Mapping[str, Any]
    split_rule: str


def refine(params: Mapping[str, Any], *, task_id: int, vos: Sequence[str]) -> Refined:
    """Refine a task parameter map.

    :raises BrokenTaskError: a key is missing or of no use; the task goes to tobroken and broken.
    """
    vo, label = params.get("vo"), params.get("prodSourceLabel")
    if vo not in vos:
        raise BrokenTaskError(f"task refiner is undefined for vo={vo} sourceLabel={label}")
    for key in REQUIRED:
        if key not in params:
            raise BrokenTaskError(
                f"failed to extract common parameters with KeyError:'{key}' Traceback (most recent call last): ..."
            )
    try:
        lfns, per_job = _inputs(params)
        outputs = tuple(_outputs(params, task_id))
        template = _template(params, outputs)
        max_attempt = max(1, int(params.get("maxAttempt", 3)))
        offsets = [
            item.get("offset", 0) for item in params["jobParameters"] if "${SEQNUMBER}" in str(item.get("value"))
        ]
        first_number = int(offsets[0]) if offsets else 0
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise BrokenTaskError(f"failed to refine with {type(error).__name__}:{error} Traceback: ...") from None
    kept = {**params, "transPath": params.get("transPath", DEFAULT_TRANSFORM)}
    kept["jobParameters"] = _with_source_url(params["jobParameters"], params)
    if isinstance(params.get("log"), Mapping):
        kept["log"] = {**params["log"], "value": "${LOG0}"}
    kept.update(pushStatusChanges=True, messageDriven=True, cloudAsVO=True)
    return Refined(
        lfns=lfns,
        per_job=per_job,
        max_attempt=max_attempt,
        auto_retry=not params.get("disableAutoRetry"),
        template=template,
        outputs=outputs,
        first_number=first_number,
        params=kept,
        split_rule=_split_rule(params),
    )


def _inputs(params: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
    if not params.get("noInput"):
        raise BrokenTaskError("the embedded grid has no data management: only tasks with noInput are refined")
    if "nEvents" in params and "nEventsPerJob" in params:
        jobs = -(-int(params["nEvents"]) // max(1, int(params["nEventsPerJob"])))
        count = _bounded(jobs)
        return (PSEUDO_LFN,) * count, 1
    pfns = params.get("pfnList")
    if not pfns:
        return (PSEUDO_LFN,), 1
    if not isinstance(pfns, list):
        raise ValueError("pfnList must be a list")
    count = _bounded(min(len(pfns), int(params.get("nFiles", len(pfns)))))
    lfns = tuple(f"{index:06d}:{str(name).rsplit('/', 1)[-1]}" for index, name in enumerate(pfns[:count]))
    return lfns, max(1, int(params.get("nFilesPerJob", 1)))


def _bounded(count: int) -> int:
    if not 1 <= count <= MAX_INPUTS:
        raise ValueError(f"{count} inputs; the embedded grid takes 1 to {MAX_INPUTS}")
    return count


def _outputs(params: Mapping[str, Any], task_id: int) -> list[OutputTemplate]:
    templates = [item for item in params["jobParameters"] if item.get("param_type") in ("output", "log")]
    if isinstance(params.get("log"), Mapping):
        templates.append(params["log"])
    return [
        OutputTemplate(
            kind=str(item["param_type"]) if item.get("param_type") in ("output", "log") else "log",
            dataset=str(item.get("dataset", "")),
            pattern=str(item["value"]).replace("$JEDITASKID", str(task_id)).replace("${JEDITASKID}", str(task_id)),
            token=str(item.get("token", "local")),
        )
        for item in templates
    ]


def _with_source_url(items: Sequence[Mapping[str, Any]], params: Mapping[str, Any]) -> list[dict[str, Any]]:
    source = str(params.get("sourceURL", ""))
    return [{**item, "value": str(item.get("value", "")).replace("${SURL}", source)} for item in items]


def _template(params: Mapping[str, Any], outputs: Sequence[OutputTemplate]) -> str:
    parts: list[str] = []
    n_outputs = 0
    for item in _with_source_url(params["jobParameters"], params):
        value = item["value"]
        if item.get("param_type") in ("output", "log"):
            value, n_outputs = f"${{OUTPUT{n_outputs}}}", n_outputs + 1
        if item.get("hidden"):
            continue
        parts.append(value)
        if item.get("padding", True):
            parts.append(" ")
    return "".join(parts).strip()


def _split_rule(params: Mapping[str, Any]) -> str:
    rules: list[str] = []
    if params.get("nFilesPerJob"):
        rules.append(f"nFilesPerJob={params['nFilesPerJob']}")
    if params.get("pfnList"):
        rules.append("pfnList=1")
    if params.get("nEventsPerJob"):
        rules.append(f"nEventsPerJob={params['nEventsPerJob']}")
    if params.get("useSecrets"):
        rules.append("useSecrets=1")
    if params.get("encJobParams"):
        rules.append("encJobParams=1")
    return ",".join([*rules, "pushStatusChanges=1", "cloudAsVO=1", "messageDriven=1"])


@dataclass(frozen=True, slots=True, kw_only=True)
class JobText:
    """What one attempt of a job gets: its parameters as delivered, and its output files as ``(kind, lfn)``."""

    parameters: str
    files: tuple[tuple[str, str], ...]


def job_text(
    refined: Refined, *, inputs: Sequence[str], serial: int, attempt: int, index: int = 0, first_event: int = 0
) -> JobText:
    """Fill in the placeholders of one attempt.

    :param inputs: LFNs of the job's inputs.
    :param serial: serial number of the job in its task, from 1.
    :param attempt: attemptNr.
    :param index: number of its inputs' chunk in the task, from 0; the same for all attempts at it.
    """
    files = tuple((o.kind, _numbered(o.pattern, serial)) for o in refined.outputs)
    names = [lfn.split(":", 1)[-1] for lfn in inputs]
    events = refined.params.get("nEventsPerJob") or 1
    values = {
        "${IN/T}": str(names),
        "${IN}": ",".join(names),
        "${SN}": str(serial),
        "${SEQNUMBER}": str(refined.first_number + index),
        "${SN/P}": f"{serial:06d}",
        "${MAXEVENTS}": str(events),
        "${SKIPEVENTS}": str(first_event),
        "${ATTEMPTNR}": str(attempt),
        **{f"${{OUTPUT{index}}}": name for index, (_, name) in enumerate(files)},
    }
    text = re.sub(r"\$\{[A-Z0-9/]+\}", lambda match: values.get(match.group(), match.group()), refined.template)
    if refined.params.get("encJobParams"):
        text = base64.b64encode(text.encode()).decode()
    return JobText(parameters=text, files=files)


def _numbered(pattern: str, serial: int) -> str:
    return pattern.replace("${SN}", f"{serial:06d}").replace("${SN/P}", f"{serial:06d}")
