"""Tasks and jobs in PanDA's own words: the dicts that its calls return, with all the keys of the real ones.

Keys and constant values after panda-server 1.0.4 (samples/panda/task.get_job_descriptions.json,
task.get_detailed_info.json, pilot.acquire_jobs.json).
"""
