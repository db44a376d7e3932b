"""The data plane beside one Triton server: makes the videos of its replica's jobs, stores them and reports.

| module | what it does |
|---|---|
| main, options | starts the process, turns errors into a sentence |
| replica | one tenure: from taking the replica's Lease to losing or leaving it |
| lease | the heartbeat, and the right to write |
| assignments | which jobs the API says are ours, as tasks |
| attempt, video | one attempt of one job, and the making of its video: resume, restart, mux |
| pipeline | chunks two deep through Triton, encoded and committed in order |
| mux | the final MP4, in a thread |
| triton, buffers | the server's client; shared memory for frames |
| serving | the VideoModels that the server has to hold |
| storage | the pool's store, and whether it works |
| status, events, metrics | what people and dashboards get to see |
| resume, residency, accounting, stop | pure pieces |
"""
