"""Managed pools: the Deployment of a pool, and what its pods say. Pure: nothing here talks to the API server."""
