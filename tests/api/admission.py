"""Objects that the API server takes, and how tests ask it."""

import copy
import json
from typing import Any

import pytest

from dev.control_plane import Cluster
from dev.errors import DevError
from videojob.workload.deployment import PodDefaults

Json = dict[str, Any]


GOOD: Json = {
    "model": "tiny",
    "shots": [{"prompt": "a fox runs through snow", "seconds": 4}],
}


MODEL: Json = {
    "family": "AnyFlowFAR",
    "source": {"directory": "/models/tiny"},
    "precision": "float32",
    "memory": {"weightsBytes": 1, "perJobBytes": 1},
}


SITE = PodDefaults("default", "triton", "runner")


POOL: Json = {
    "accelerator": "cpu",
    "endpoints": [{"name": "r0", "url": "localhost:8001"}],
    "models": ["tiny"],
    "store": {"url": "file:///store"},
}


PODS: Json = {
    "accelerator": "nvidia-h200",
    "jobsPerReplica": 2,
    "models": ["tiny"],
    "operatorNamespace": "team-a",
    "scaling": {"minReplicas": 1, "maxReplicas": 8, "targetSeconds": 60},
    "store": {"url": "file:///store"},
    "template": {
        "image": "registry.example/videojob-triton:1",
        "tritonResources": {"requests": {"cpu": 4, "memory": "64Gi"}, "limits": {"memory": "64Gi"}},
        "nodeSelector": {"gpu": "h200"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "volumes": [{"name": "weights", "persistentVolumeClaim": {"claimName": "weights"}}],
        "volumeMounts": [{"name": "weights", "mountPath": "/weights", "readOnly": True}],
        "env": [{"name": "HF_HOME", "value": "/weights"}],
    },
}


def manifest(kind: str, spec: Json, name: str = "one") -> Json:
    return {"apiVersion": "videojob.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def with_field(spec: Json, path: str, value: Any) -> Json:
    changed = copy.deepcopy(spec)
    *parents, last = path.split(".")
    node: Any = changed
    for part in parents:
        node = node[int(part)] if part.isdigit() else node.setdefault(part, {})
    if value is None:
        node.pop(last, None)
    else:
        node[last] = value
    return changed


def dry_run(cluster: Cluster, namespace: str, body: Json) -> None:
    """Raises DevError where the API server refuses the object."""
    cluster.kubectl("create", "--dry-run=server", "--namespace", namespace, "-f", "-", input=json.dumps(body))


def is_taken(cluster: Cluster, namespace: str, body: Json) -> bool:
    try:
        dry_run(cluster, namespace, body)
    except DevError:
        return False
    return True


def refusal(cluster: Cluster, namespace: str, body: Json) -> str:
    with pytest.raises(DevError) as refused:
        cluster.kubectl("create", "--namespace", namespace, "-f", "-", input=json.dumps(body))
    return str(refused.value)


def patch(cluster: Cluster, namespace: str, change: Json) -> None:
    body = json.dumps({"spec": change})
    cluster.kubectl("patch", "videojob", "one", "--namespace", namespace, "--type", "merge", "--patch", body)


def create(cluster: Cluster, namespace: str, spec: Json) -> Json:
    text = cluster.kubectl(
        "create", "--namespace", namespace, "-o", "json", "-f", "-", input=json.dumps(manifest("VideoJob", spec))
    )
    created: Json = json.loads(text)
    return created
