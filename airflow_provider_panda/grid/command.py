"""A shell command as a PanDA task, in the way of ``prun``: inputs, outputs, local files and a container.

prun hands the command to its transform ``runGen``, which fetches the sandbox, runs the command and renames the outputs.
Here the same is done by a few shell lines around the command, so that the transform of the connection
(``bash-c-enc``) runs it and nothing else need be found on the worker node but a shell, ``tar`` and ``curl``, ``wget``
or ``python3``.

The parameter items follow facts/panda.md section 7 and JEDI's refiner: an item of type ``template`` with ``param_type``
``output`` names a file of every job, and its place in the job parameters is filled with that name.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from airflow_provider_panda.exceptions import ConfigurationError
from airflow_provider_panda.grid.parameters import GridDefaults, task_parameters
from airflow_provider_panda.grid.sandbox import Sandbox
from airflow_provider_panda.grid.task import Resources, TaskSpec

EXIT_SANDBOX: Final = 75
"""Exit code of a job that could not fetch its files."""
EXIT_OUTPUT: Final = 76
"""Exit code of a job whose command ended well without one of its outputs."""

_OUTPUT_NAME: Final = re.compile(r"[A-Za-z0-9_*][\w.*+-]*", re.ASCII)
_DATASET_NAME: Final = re.compile(r"(?:[\w.+-]+:)?[A-Za-z0-9][\w.+-]*/?", re.ASCII)
_PERCENT_IN: Final = re.compile(r"%IN(?![A-Za-z0-9_])")


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSpec:
    """One command to run as a PanDA task.

    :param key: task key.
    :param name: PanDA task name.
    :param command: shell lines of a job. ``${IN}`` (or prun's ``%IN``) is the comma-separated list of its inputs.
    :param n_jobs: number of jobs; not with inputs, of which PanDA makes as many jobs as they need.
    :param inputs: names of input datasets.
    :param files_per_job: input files of one job, or None for PanDA's choice.
    :param n_files: how many input files are used in all, or None for all.
    :param outputs: names of the files that a job makes in its working directory; one with ``*`` becomes a tar file.
    :param output_dataset: base name of the output datasets, registered where the grid has data management; None: named
        after the task, and not registered.
    :param destination: storage to which outputs go, or None for PanDA's choice.
    :param container: image for PanDA's ``container_name``, or None.
    :param sandbox: local files that every job finds in its working directory, or None.
    :param resources: what a job needs.
    :param processing_type: PanDA processingType.
    """

    key: str
    name: str
    command: str
    n_jobs: int = 1
    inputs: tuple[str, ...] = ()
    files_per_job: int | None = None
    n_files: int | None = None
    outputs: tuple[str, ...] = ()
    output_dataset: str | None = None
    destination: str | None = None
    container: str | None = None
    sandbox: Sandbox | None = None
    resources: Resources = field(default_factory=Resources)
    processing_type: str = "airflow"


def check_command(command: object) -> str:
    """Return the command.

    :raises ConfigurationError: it is empty or no text.
    """
    if not isinstance(command, str) or not command.strip():
        raise ConfigurationError(
            "argument command", f"{command!r} is no shell command", "Give the shell lines of a job"
        )
    return command


def check_outputs(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of output files.

    :raises ConfigurationError: one cannot be a file name on the grid, or comes twice.
    """
    for name in names:
        if not isinstance(name, str) or not _OUTPUT_NAME.fullmatch(name):
            raise ConfigurationError(
                "argument outputs",
                f"{name!r} is no name of an output file",
                "Give names of files in the job's working directory, of letters, digits and . _ - + (and * for many)",
            )
    told = [_grid_name(name) for name in names]
    if len(set(told)) != len(told):
        raise ConfigurationError("argument outputs", "a name comes twice", "Give every output once")
    return tuple(names)


def check_dataset(argument: str, name: str) -> str:
    """Return the name of a dataset.

    :param argument: argument that it was given for.
    :raises ConfigurationError: it is none.
    """
    if not isinstance(name, str) or not _DATASET_NAME.fullmatch(name):
        raise ConfigurationError(
            f"argument {argument}", f"{name!r} is no dataset name", "Give one such as user.nickname.sample/"
        )
    return name


def command_parameters(
    spec: CommandSpec, *, vo: str, source_url: str, defaults: GridDefaults, user_name: str = "airflow"
) -> dict[str, Any]:
    """Return the task parameter map of a command, for PanDA API v1 task/submit.

    :param spec: the command.
    :param vo: virtual organisation.
    :param source_url: base URL of the cache that holds the sandbox.
    :param defaults: what the connection gives.
    :param user_name: owner.
    :raises ConfigurationError: a name in it is of no use.
    """
    check_command(spec.command)
    check_outputs(spec.outputs)
    for name in spec.inputs:
        check_dataset("inputs", name)
    base = spec.output_dataset and check_dataset("output_dataset", spec.output_dataset).rstrip("/")
    parameters = task_parameters(
        TaskSpec(
            key=spec.key,
            name=spec.name,
            n_jobs=spec.n_jobs,
            command="",
            archive_name=spec.sandbox.name if spec.sandbox else "",
            resources=spec.resources,
            container=spec.container,
            use_secrets=False,
            processing_type=spec.processing_type,
        ),
        vo=vo,
        source_url=source_url,
        defaults=defaults,
        user_name=user_name,
    )
    parameters["cliParams"] = spec.command
    parameters["jobParameters"] = _items(spec, base or None, source_url)
    if spec.inputs:
        for name in ("noInput", "nFiles", "nFilesPerJob", "pfnList"):
            del parameters[name]
        parameters["dsForIN"] = ",".join(spec.inputs)
        if spec.files_per_job is not None:
            parameters["nFilesPerJob"] = spec.files_per_job
        if spec.n_files is not None:
            parameters["nFiles"] = spec.n_files
    if base:
        parameters["log"] = {
            "dataset": f"{base}.log/",
            "container": f"{base}.log/",
            "type": "template",
            "param_type": "log",
            "value": f"{base}.log.$JEDITASKID.${{SN}}.log.tgz",
        }
    return parameters


def output_datasets(parameters: dict[str, Any]) -> list[str]:
    """Return the names of the output datasets in a task parameter map, without those of logs."""
    items = parameters.get("jobParameters")
    named = [
        str(item.get("dataset") or "")
        for item in (items if isinstance(items, list) else ())
        if isinstance(item, dict) and item.get("param_type") == "output"
    ]
    return list(dict.fromkeys(filter(None, named)))


def _items(spec: CommandSpec, base: str | None, source_url: str) -> list[dict[str, Any]]:
    """Return the job parameters: joined by PanDA, they are the shell lines of a job."""
    items: list[dict[str, Any]] = []
    if spec.inputs:
        items += [
            _text("export IN='"),
            {
                "type": "template",
                "param_type": "input",
                "value": "${IN}",
                "dataset": ",".join(spec.inputs),
                "expand": True,
                "exclude": r"\.log\.tgz(\.\d+)*$",
                "padding": False,
            },
            _text("'\n"),
        ]
    else:
        # The only input is the job's key (j0, j1, ...), inside a list literal.
        items.append(_text('export PANDA_JOB="$(printf %s "${IN/T}" | tr -cd 0-9)"\n'))
    items.append(_text("export PANDA_ATTEMPT=${ATTEMPTNR}\n"))
    for number, name in enumerate(spec.outputs):
        items += [_text(f"export OUTPUT{number}='"), _output(spec, base, name), _text("'\n")]
    lines = [*_fetch_lines(spec.sandbox, source_url), "(", _PERCENT_IN.sub("${IN}", spec.command), ")"]
    # Not "( ... ) || exit": the shell would ignore the command's own "set -e".
    lines.append('_status=$?; [ "$_status" -eq 0 ] || exit "$_status"')
    lines += [_keep_line(number, name) for number, name in enumerate(spec.outputs)]
    # The last item is padded: JEDI takes one character off the end of the whole.
    return [*items, {"type": "constant", "value": "\n".join(lines)}]


def _text(value: str) -> dict[str, Any]:
    return {"type": "constant", "value": value, "padding": False}


def _output(spec: CommandSpec, base: str | None, name: str) -> dict[str, Any]:
    """Return the item of one output, after prun's names of files and datasets."""
    file, item = _grid_name(name), {"type": "template", "param_type": "output", "padding": False}
    if base is None:
        where = {"dataset": f"{spec.name}.{file}", "token": "local", "destination": "local"}
        return {**item, **where, "value": f"{spec.name}.$JEDITASKID._${{SN/P}}.{file}"}
    plain = base.rpartition(":")[2]
    prefix = ".".join(plain.split(".")[:2]) if plain.count(".") > 1 else plain
    item = {**item, "dataset": f"{base}_{file}/", "container": f"{base}_{file}/"}
    if spec.destination:
        item["destination"] = spec.destination
    return {**item, "value": f"{prefix}.$JEDITASKID._${{SN/P}}.{file}"}


def _grid_name(name: str) -> str:
    """Return what an output is called on the grid; many files become one tar file, as prun has it."""
    return f"{name.replace('*', 'XYZ')}.tgz" if "*" in name else name


def _keep_line(number: int, name: str) -> str:
    """Return the line that gives an output its name on the grid; the command may have used it itself."""
    kept = f'tar -czf "$OUTPUT{number}" -- {name}' if "*" in name else f'mv -- {shlex.quote(name)} "$OUTPUT{number}"'
    complaint = f'echo "airflow-panda: the command ended well, but did not make its output {name}" >&2'
    return f'[ -e "$OUTPUT{number}" ] || {kept} || {{ {complaint}; exit {EXIT_OUTPUT}; }}'


def _fetch_lines(sandbox: Sandbox | None, source_url: str) -> list[str]:
    """Return the lines that fetch the sandbox, compare its hash and unpack it."""
    if sandbox is None:
        return []
    url = shlex.quote(f"{source_url.rstrip('/')}/cache/{sandbox.name}")
    # No certificate is asked for: what counts is the hash, which came with the job.
    python = (
        "import ssl,sys,urllib.request as u;"
        "open(sys.argv[2],'wb').write(u.urlopen(sys.argv[1],context=ssl._create_unverified_context()).read())"
    )
    name = sandbox.name
    return [
        f"{{ curl -fsSLk --retry 5 -o {name} {url} || wget -q --no-check-certificate -O {name} {url} ||",
        f'  python3 -c "{python}" {url} {name}; }} 2>&1 | tail -n 3 >&2',
        f"echo '{sandbox.sha256}  {name}' | sha256sum -c --status - && tar -xzf {name} && rm -f {name} ||",
        f"  {{ echo 'airflow-panda: the files of this job, {name}, could not be fetched from the cache' >&2;"
        f" exit {EXIT_SANDBOX}; }}",
    ]
