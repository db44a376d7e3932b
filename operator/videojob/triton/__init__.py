"""Serving with Triton: the contract of its models, and rendering of model repositories. Nothing here imports torch."""
