"""The Kubernetes API of videojob: resource types, conditions and reasons. The CRDs are generated from here."""

GROUP = "videojob.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
MANAGER = f"{GROUP}/operator"
"""Value of `spec.managedBy` (and its default) for jobs that this operator acts on."""
FINALIZER = f"{GROUP}/files"
"""Holds a deleted job until its files are gone from the store."""
