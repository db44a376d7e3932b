"""Developer tools: the local cluster, its programs and processes, and `python -m dev up|down|demo`."""
