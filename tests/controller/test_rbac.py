"""The operator's account may do what it does, and no more."""

import pytest

from dev.control_plane import NAMESPACE, Cluster
from dev.errors import DevError


@pytest.mark.parametrize(
    ("verb", "what", "namespace", "allowed"),
    [
        ("patch", "videojobs.videojob.dev", "default", True),
        ("patch", "videojobs.videojob.dev/status", "default", True),
        ("delete", "videojobs.videojob.dev", "default", True),
        ("create", "videojobs.videojob.dev", "default", False),
        ("update", "videojobs.videojob.dev", "default", False),
        ("patch", "gpupools.videojob.dev/status", "", True),
        ("patch", "gpupools.videojob.dev", "", False),
        ("delete", "videomodels.videojob.dev", "", False),
        ("create", "events", "default", True),
        ("get", "events", "default", False),
        ("list", "leases.coordination.k8s.io", NAMESPACE, True),
        ("list", "leases.coordination.k8s.io", "default", False),
        ("update", "leases.coordination.k8s.io/videojob-operator", NAMESPACE, True),
        ("update", "leases.coordination.k8s.io/pool.r0", NAMESPACE, False),
        ("get", "secrets", NAMESPACE, True),
        ("list", "secrets", NAMESPACE, False),
        ("get", "secrets", "default", False),
        ("get", "configmaps/videojob-orphans", NAMESPACE, True),
        ("patch", "configmaps/videojob-orphans", NAMESPACE, True),
        ("get", "configmaps/authority-of-a-store", NAMESPACE, True),
        ("patch", "configmaps/authority-of-a-store", NAMESPACE, False),
        ("list", "configmaps", NAMESPACE, False),
        ("get", "configmaps/authority-of-a-store", "default", False),
        ("create", "pods", NAMESPACE, False),
        ("create", "serviceaccounts/token", NAMESPACE, False),
    ],
    ids=str,
)
def test_rights(cluster: Cluster, verb: str, what: str, namespace: str, allowed: bool) -> None:
    account = f"system:serviceaccount:{NAMESPACE}:videojob-operator"
    resource, _, name = what.partition("/")
    where = ["--namespace", namespace] if namespace else []
    kind = [f"{resource}/{name}"] if name and name not in ("status", "token") else [resource]
    part = ["--subresource", name] if name in ("status", "token") else []
    try:
        answer = cluster.kubectl("auth", "can-i", verb, *kind, *part, "--as", account, *where)
    except DevError:
        answer = "no"
    assert (answer.strip() == "yes") == allowed
