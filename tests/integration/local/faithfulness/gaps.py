"""What is known to differ, each with its reason: between the embedded grid and the real server, and between that
server and the published description of its API."""

from __future__ import annotations

NOT_COVERED: dict[str, str] = {
    "file_server.upload_cache_file#0": (
        "a fault of the captured server's set-up (its robot certificate had no production role); the embedded grid"
        " registers files in its own store, where that cannot fail"
    ),
}
"""Captured exchanges that no situation of the embedded grid leads to."""

VOLATILE = frozenset(
    """
    PandaID jediTaskID jobDefinitionID taskID jobsetID reqID row_ID datasetID fileID id job_id taskid jobid parent_tid
    timestamp modificationHost prodDBlock lfn dataset inDS outDS pilotID specialHandling requestType GUID logGUID
    taskName raw_task_params jobDuration creationHost
    """.split()  # noqa: SIM905 - a list of literals reads worse
)
"""Keys whose values depend on more than the situation; their types are compared."""

VOLATILE_IN = {"task.submit#0": frozenset({"data"})}
"""Further such keys of single exchanges: here the data is the new task's id."""

DIFFERS: dict[str, str] = {
    "currentPriority": "JEDI lowers it from job to job of a task; the embedded grid has no shares",
    "maxPSS": "resource use that a pilot reports is not kept",
}
"""Keys whose values, or types, differ for a reason that lies in what the embedded grid is for."""

NOT_HERE: dict[str, str] = {
    "creds/get_access_token": "credentials of production pilots",
    "creds/get_key_pair": "credentials of production pilots",
    "creds/get_proxy": "credentials of production pilots",
    "creds/get_token_key": "credentials of production pilots",
    "data_carousel/*": "staging from tape: the embedded grid has no data management",
    "event/*": "event service: jobs here process whole inputs",
    "file_server/delete_hpo_checkpoint": "HPO service of iDDS, not used by this package",
    "file_server/download_jedi_log": "JEDI's own logs; those of payloads are on the job's page",
    "file_server/register_cache_file": "called by the real server itself; uploads are registered at once here",
    "file_server/update_jedi_log": "JEDI's own logs",
    "file_server/upload_event_picking_request": "ATLAS event picking",
    "file_server/upload_file_recovery_request": "recovery of lost files: no data management",
    "file_server/upload_hpo_checkpoint": "HPO service of iDDS, not used by this package",
    "file_server/upload_jedi_log": "JEDI's own logs",
    "file_server/upload_workflow_request": "workflows native to PanDA",
    "harvester/*": "resource provisioning: the embedded pilot is always there",
    "job/generate_offline_execution_script": "needs the transform's environment outside the grid",
    "job/reassign": "there is one set of workers",
    "job/set_command": "commands of operators to pilots",
    "job/submit": "jobs without a task: only tasks are submitted here",
    "metaconfig/*": "queues and shares are options of the command line",
    "pilot/update_jobs_bulk": "for Harvester",
    "pilot/update_worker_node": "descriptions of worker nodes",
    "pilot/update_worker_node_gpu": "descriptions of worker nodes",
    "pilot/update_worker_status": "for Harvester",
    "statistics/*": "monitoring of a whole grid",
    "system/get_voms_attributes": "X.509 is not used here",
    "task/avalanche": "there are no scout jobs",
    "task/change_attribute": "attributes that brokerage over many queues reads",
    "task/change_modification_time": "kicks JEDI's brokerage, which is immediate here",
    "task/change_priority": "there are no shares or priorities",
    "task/change_split_rule": "the splitter takes its rules from the parameters only",
    "task/disable_job_cloning": "event service",
    "task/enable_job_cloning": "event service",
    "task/enable_jumbo_jobs": "event service",
    "task/get_jumbo_job_datasets": "event service",
    "task/reassign": "there is one set of workers",
    "task/reassign_global_share": "there are no shares",
}
"""Calls of the published description that the embedded grid does not have."""

NOT_HERE_FACTS: dict[str, str] = {
    "/api/v1/async_process/*": "in no published description, and no client calls it",
    "/api/v1/workflow/*": "workflows native to PanDA (Client.submit_workflow, get_workflow_details)",
    "https with X.509 client certificates": "tokens only",
    "/server/panda/putEventPickingRequest": "event service",
    "/server/panda/put_checkpoint": "HPO service of iDDS",
    "/server/panda/delete_checkpoint": "HPO service of iDDS",
    "/server/panda/put_file_recovery_request": "no data management",
    "/server/panda/put_workflow_request": "workflows native to PanDA",
}
"""What facts/panda.md says of the real server beyond the description, and the embedded grid does not have."""

NOT_DESCRIBED: dict[str, str] = {
    "idds/relay_idds_command": "in the server's module idds, but not in the description",
    "idds/execute_idds_workflow_command": "in the server's module idds, but not in the description",
}
"""Calls that server and embedded grid have, and the description has not."""

SERVER_DEVIATES: dict[str, str] = {
    "document": "says swagger 2.0 and describes bodies by requestBody and answers by content, which only OpenAPI 3 has",
    "answer data": "described as an object for every call; lists, strings, integers and null are sent",
    "content type": "described as application/json for 200; text/plain is sent, for JSON and for Python's repr alike",
    "403 without credentials": "not described and not sent: a call without credentials is a 200 with success false",
    "creds/get_user_secrets": "described as POST only; panda-client uses GET, which works",
    "creds/set_user_secrets": "value described as string; null deletes",
    "file_server/upload_cache_file": "described as a JSON body; multipart/form-data is what works",
    "task/submit": "task_parameters described as string, sent as object; parent_tid as integer, sent as null",
    "task/get_tasks_modified_since": "min_task_id described as integer; panda-client sends the text None",
    "task/get_tasks_detailed_info_since": "since described as required; panda-client leaves it out",
    "task/retry": "new_parameters described as string; panda-client sends an object",
    "job/kill": "elements of the list job_ids described as objects",
    "job/get_description": "described as GET only; panda-client uses POST, which works",
    "job/get_description_incl_archive": "described as GET only; panda-client uses POST, which works",
    "pilot/get_job_status": "elements of the list job_ids described as objects, in a query string",
    "pilot/update_job": "job_status described as optional; the server's function needs it (code)",
    "system/get_attributes": "describes a parameter **kwargs",
}
"""Where the real server, or the client that works with it, does not keep to its published description."""
