"""The data plane beside one Triton server: makes the videos of its replica's jobs, stores them and reports.

| module | what it does |
|---|---|
| main, options | starts the process, turns errors into a sentence |
| replica | one tenure: from taking the replica's Lease to losing or leaving it |
| lease, hold | the heartbeat, and what the runner may do by it: fresh, cut off or lost |
| leftovers | the jobs that a runner before has left, handed back |
| assignments, slots | which jobs the API server has assigned here, as tasks |
| readable, kept | what cannot be read, and what fails, ends nothing else |
| attempt, video | one attempt of one job, and the making of its video: resume, restart, mux |
| pipeline | chunks two deep through Triton, encoded and committed in order |
| mux | the final MP4, in a thread |
| triton, channel, buffers | the server's client; how it is reached; shared memory for frames |
| vigil, patience | whether a stage that somebody waits for still works |
| judge | whether the replica is able to make anything, or is a hole that jobs fall into |
| serving, served, loader | the VideoModels that the server has to hold: which, what is known of each, what is done |
| pool_store | the pool's store, and whether it works |
| status, events, metrics | what people and dashboards get to see |
| model_state, residency, accounting, stop | pure pieces |
"""
