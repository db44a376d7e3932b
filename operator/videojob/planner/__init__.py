"""Pure decisions: a snapshot of the cluster in, what to do out. No clock, no I/O, no random source."""
