"""Jobs as PanDA's calls return them, and as it hands them to pilots."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

from airflow_provider_panda.local.describe.times import moment
from airflow_provider_panda.local.refine import DEFAULT_TRANSFORM
from airflow_provider_panda.local.state import JobState
from airflow_provider_panda.local.store import InputRow, JobRow, TaskRow

_JOB_KEYS: Final = tuple(
    """
    PandaID jobDefinitionID schedulerID pilotID creationTime creationHost modificationTime modificationHost
    AtlasRelease transformation homepackage prodSeriesLabel prodSourceLabel prodUserID assignedPriority
    currentPriority attemptNr maxAttempt jobStatus jobName maxCpuCount maxCpuUnit maxDiskCount maxDiskUnit
    ipConnectivity minRamCount minRamUnit startTime endTime cpuConsumptionTime cpuConsumptionUnit
    commandToPilot transExitCode pilotErrorCode pilotErrorDiag exeErrorCode exeErrorDiag supErrorCode
    supErrorDiag ddmErrorCode ddmErrorDiag brokerageErrorCode brokerageErrorDiag jobDispatcherErrorCode
    jobDispatcherErrorDiag taskBufferErrorCode taskBufferErrorDiag computingSite computingElement
    jobParameters metadata prodDBlock dispatchDBlock destinationDBlock destinationSE nEvents grid cloud
    cpuConversion sourceSite destinationSite transferType taskID cmtConfig stateChangeTime prodDBUpdateTime
    lockedby relocationFlag jobExecutionID VO pilotTiming workingGroup processingType prodUserName
    nInputFiles countryGroup batchID parentID specialHandling jobsetID coreCount nInputDataFiles
    inputFileType inputFileProject inputFileBytes nOutputDataFiles outputFileBytes jobMetrics workQueue_ID
    jediTaskID jobSubStatus actualCoreCount reqID maxRSS maxVMEM maxSWAP maxPSS avgRSS avgVMEM avgSWAP avgPSS
    maxWalltime nucleus eventService failedAttempt hs06sec gshare hs06 totRCHAR totWCHAR totRBYTES totWBYTES
    rateRCHAR rateWCHAR rateRBYTES rateWBYTES resource_type diskIO memory_leak memory_leak_x2 container_name
    job_label gco2_regional gco2_global cpu_architecture_level outputFileType Files
    """.split()  # noqa: SIM905 - a list of 130 literals reads worse
)

_JOB_CONSTANTS: Final[dict[str, Any]] = {
    **dict.fromkeys(_JOB_KEYS),
    "AtlasRelease": "",
    "homepackage": "",
    "prodSeriesLabel": "pandatest",
    "maxAttempt": 3,
    "maxCpuCount": 0,
    "maxDiskCount": 300,
    "maxDiskUnit": "MB  ",
    "ipConnectivity": "yes  ",
    "minRamUnit": "MB",
    "supErrorCode": 0,
    "brokerageErrorCode": 0,
    "nEvents": 1,
    "lockedby": "jedi",
    "relocationFlag": 1,
    "jobExecutionID": 0,
    "nOutputDataFiles": 0,
    "outputFileBytes": 0,
    "workQueue_ID": 3,
    "maxWalltime": 0,
    "failedAttempt": 0,
    "gshare": "User",
    "resource_type": "Undefined",
}

_FILE_KEYS: Final = tuple(
    """
    row_ID PandaID GUID lfn type dataset status prodDBlock prodDBlockToken dispatchDBlock dispatchDBlockToken
    destinationDBlock destinationDBlockToken destinationSE fsize md5sum checksum scope jediTaskID datasetID
    fileID attemptNr
    """.split()  # noqa: SIM905 - a list of 130 literals reads worse
)


def _memory(params: Mapping[str, Any]) -> int:
    """Return minRamCount of a job: 90 % of what the task asks for (2000 MB per core unless it says)."""
    try:
        asked = int(params.get("ramCount") or 2000)
        if str(params.get("ramUnit", "MBPerCore")).startswith("MBPerCore"):
            asked *= int(params.get("coreCount") or 1)
    except (TypeError, ValueError):
        asked = 2000
    return asked * 9 // 10


def guid(*parts: object) -> str:
    """Return the GUID of a file, the same whenever it is asked for."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "embedded-grid/" + "/".join(map(str, parts))))


def job_dict(
    job: JobRow,
    task: TaskRow,
    params: Mapping[str, Any],
    inputs: Sequence[InputRow],
    datasets: Mapping[str, int],
    *,
    extended: bool,
) -> dict[str, Any]:
    """Return a job as ``job/get_description`` has it.

    :param params: the task's parameter map.
    :param inputs: inputs of the job.
    :param datasets: dataset ids of the task by name.
    :param extended: with the two further keys of ``task/get_job_descriptions``.
    """
    files = [
        _file(job, index, i.lfn, "pseudo_input", "pseudo_dataset", i.dataset_id, i.id) for index, i in enumerate(inputs)
    ]
    log_dataset = str((params.get("log") or {}).get("dataset", "")) if isinstance(params.get("log"), Mapping) else ""
    for out in job.outputs:
        described_file = _file(
            job, len(files), out.lfn, out.kind, log_dataset, datasets.get(log_dataset, 0), job.panda_id
        )
        described_file.update(fsize=out.size, checksum=out.checksum, GUID=out.guid or described_file["GUID"])
        files.append(described_file)
    described = dict(_JOB_CONSTANTS)
    described.update(
        PandaID=job.panda_id,
        jobDefinitionID=job.task_id,
        pilotID=f"{job.pilot}|GENERIC|1" if job.pilot else None,
        creationTime=moment(job.created),
        modificationTime=moment(job.modified),
        modificationHost=job.host,
        transformation=params.get("transPath", DEFAULT_TRANSFORM),
        prodSourceLabel=job.label,
        prodUserID=f"{task.owner}/CN=nickname:{task.nickname}",
        assignedPriority=task.priority,
        currentPriority=task.priority,
        attemptNr=job.attempt,
        jobStatus=job.state.value,
        jobName=f"{task.name}.{job.panda_id}",
        minRamCount=_memory(params),
        startTime=moment(job.started),
        endTime=moment(job.ended),
        cpuConsumptionTime=job.cpu_seconds or 0,
        cpuConsumptionUnit="s" if job.cpu_seconds is not None else None,
        commandToPilot=job.command,
        transExitCode=job.trans_exit_code,
        pilotErrorCode=job.pilot_error_code,
        pilotErrorDiag=job.pilot_error_diag,
        exeErrorCode=job.exe_error_code,
        exeErrorDiag=job.exe_error_diag,
        ddmErrorCode=job.ddm_error_code,
        ddmErrorDiag=job.ddm_error_diag,
        jobDispatcherErrorCode=job.dispatcher_error_code,
        jobDispatcherErrorDiag=job.dispatcher_error_diag,
        taskBufferErrorCode=job.buffer_error_code,
        taskBufferErrorDiag=job.buffer_error_diag,
        computingSite=job.queue,
        jobParameters=job.parameters,
        metadata=job.metadata if job.state is JobState.FINISHED else None,
        destinationDBlock=log_dataset,
        cloud=task.cloud,
        taskID=task.task_id,
        cmtConfig=str(params.get("architecture") or ""),
        stateChangeTime=moment(job.state_changed),
        prodDBUpdateTime=moment(job.created),
        VO=task.vo,
        workingGroup=task.working_group,
        processingType=task.processing_type,
        prodUserName=task.owner,
        specialHandling=f"NULL,pc,tq={job.created:.6f}",
        jobsetID=job.task_id,
        coreCount=params.get("coreCount", 1),
        jediTaskID=job.task_id,
        jobSubStatus=job.sub_state,
        reqID=task.req_id,
        hs06=10,
        hs06sec=10 * (job.cpu_seconds or 0) if job.ended else None,
        container_name=params.get("container_name"),
        job_label=job.label,
        Files=files,
    )
    if extended:
        duration = max(0.0, (job.ended or job.modified) - job.started) if job.started else None
        described["jobDuration"] = duration
        described["extendedProdSourceLabel"] = f"{job.label}_normal"
    return described


def _file(job: JobRow, index: int, lfn: str, kind: str, dataset: str, dataset_id: int, file_id: int) -> dict[str, Any]:
    is_input = kind == "pseudo_input"
    described: dict[str, Any] = dict.fromkeys(_FILE_KEYS)
    described.update(
        row_ID=job.panda_id * 10 + index,
        PandaID=job.panda_id,
        GUID=guid(job.panda_id, lfn),
        lfn=lfn,
        type=kind,
        dataset=dataset,
        status="ready" if not is_input and job.state is JobState.FINISHED else "unknown",
        prodDBlock=dataset if is_input else None,
        destinationDBlock=None if is_input else dataset,
        destinationDBlockToken=None if is_input else "local",
        destinationSE=None if is_input else "local",
        fsize=0,
        scope=None if is_input else ".".join(dataset.split(".")[:2]),
        jediTaskID=job.task_id,
        datasetID=dataset_id,
        fileID=file_id,
        attemptNr=job.attempt - 1 if is_input else 0,
    )
    return described


def pilot_job(
    job: JobRow, task: TaskRow, params: Mapping[str, Any], secrets: Mapping[str, str] | None
) -> dict[str, Any]:
    """Return a job as ``pilot/acquire_jobs`` hands it out.

    :param secrets: user secrets that travel with it, or None.
    """
    files = job.outputs
    log = params.get("log") if isinstance(params.get("log"), Mapping) else {}
    dataset = str((log or {}).get("dataset", ""))
    logs = [out.lfn for out in files if out.kind == "log"]
    handed = {
        "StatusCode": 0,
        "PandaID": job.panda_id,
        "prodSourceLabel": job.label,
        "swRelease": "",
        "homepackage": "",
        "transformation": params.get("transPath", DEFAULT_TRANSFORM),
        "jobName": f"{task.name}.{job.panda_id}",
        "jobDefinitionID": job.task_id,
        "cloud": task.cloud,
        "inFiles": "",
        "dispatchDblock": "",
        "dispatchDBlockToken": "",
        "dispatchDBlockTokenForOut": ",".join(["NULL"] * len(files)),
        "outFiles": ",".join(out.lfn for out in files),
        "destinationDblock": ",".join([dataset] * len(files)),
        "destinationDBlockToken": ",".join(["local"] * len(files)),
        "prodDBlocks": "",
        "prodDBlockToken": "",
        "realDatasets": ",".join([dataset] * len(files)),
        "realDatasetsIn": "",
        "fileDestinationSE": ",".join(["local"] * len(files)),
        "logFile": logs[0] if logs else "",
        "logGUID": guid(job.panda_id, logs[0]) if logs else "",
        "jobPars": job.parameters,
        "attemptNr": job.attempt,
        "GUID": "",
        "checksum": "",
        "fsize": "",
        "scopeIn": "",
        "scopeOut": "",
        "scopeLog": ".".join(dataset.split(".")[:2]),
        "ddmEndPointIn": "",
        "ddmEndPointOut": "",
        "destinationSE": "NULL",
        "prodUserID": f"{task.owner}/CN=nickname:{task.nickname}",
        "maxCpuCount": 0,
        "minRamCount": _memory(params),
        "maxDiskCount": 300,
        "cmtConfig": str(params.get("architecture") or ""),
        "processingType": task.processing_type,
        "transferType": "NULL",
        "sourceSite": "NULL",
        "currentPriority": task.priority,
        "taskID": job.task_id,
        "coreCount": params.get("coreCount", 1),
        "jobsetID": job.task_id,
        "reqID": task.req_id,
        "nucleus": "NULL",
        "maxWalltime": 0,
        "resource_type": "Undefined",
        "ioIntensity": None,
        "ioIntensityUnit": None,
        "nSent": 0,
    }
    if params.get("container_name"):
        handed["container_name"] = params["container_name"]
    if secrets is not None:
        handed["secrets"] = json.dumps(dict(secrets))
    return handed
