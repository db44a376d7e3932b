"""Managed pools: the Deployment of a pool, and the state of its pods. Pure: no I/O."""
