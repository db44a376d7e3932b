"""Talking to the Kubernetes API server in plain JSON objects."""
