"""Simulated GPU nodes: real API server, controllers and scheduler, and kwok in place of the kubelets."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from dev import control_plane
from dev.control_plane import Cluster, free_ports, wait_until
from dev.errors import DevError
from dev.programs import MODULES, go, program
from dev.supervisor import Process, Supervisor, crash_loop

GPU = "nvidia.com/gpu"
MANAGED = "kwok.x-k8s.io/node"
"""Annotation of the nodes that kwok simulates."""
READY_AFTER = "videojob.dev/test-ready-after"
"""Annotation of a pod: how long after it has a node kwok makes it ready, as a Go duration."""
COMPLETE_AFTER = "videojob.dev/test-complete-after"
"""Annotation of a Job's pod: how long after it was ready it ends, as a Go duration."""
ACCELERATOR = "example.com/accelerator"
"""Label of a node."""
STARTED_SECONDS = 60
DOWNLOAD_SECONDS = 300
_KWOK = "sigs.k8s.io/kwok"
_STAGES = (
    "node/fast/node-initialize",
    "node/heartbeat-with-lease/node-heartbeat-with-lease",
    "pod/fast/pod-ready",
    "pod/fast/pod-complete",
    "pod/fast/pod-delete",
)
_DELAYS = {"pod/fast/pod-ready": READY_AFTER, "pod/fast/pod-complete": COMPLETE_AFTER}


@contextmanager
def cluster_with_nodes(folder: Path, writes_per_second: int = 500) -> Iterator[Cluster]:
    """A cluster with `writes_per_second` for controllers and scheduler each, where kwok simulates all nodes."""
    supervisor = Supervisor(folder)
    try:
        cluster = control_plane.start(supervisor)
        # First: the garbage collector looks for new kinds twice a minute only.
        cluster.install()
        for process in _processes(cluster, supervisor.folder, writes_per_second):
            supervisor.run(process)
        names = ("kube-controller-manager", "kube-scheduler", "kwok")
        wait_until(
            lambda: bool(cluster.kubectl("get", "serviceaccount", "default", "--namespace", control_plane.NAMESPACE)),
            "The controllers do not work",
            STARTED_SECONDS,
            lambda: crash_loop(supervisor.folder, names),
        )
        yield cluster
    finally:
        supervisor.stop()


def add_nodes(cluster: Cluster, accelerator: str, count: int, gpus: int = 8) -> tuple[str, ...]:
    """Make nodes with so many GPUs each, wait until they are ready, and return their names."""
    names = tuple(f"{accelerator}-{number}" for number in range(count))
    resources = {"cpu": "96", "memory": "1Ti", "pods": "110", GPU: str(gpus)}
    cluster.apply(
        *(
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {
                    "name": name,
                    "annotations": {MANAGED: "fake"},
                    "labels": {ACCELERATOR: accelerator, "kubernetes.io/hostname": name},
                },
                "status": {"capacity": resources, "allocatable": resources},
            }
            for name in names
        )
    )

    def ready() -> bool:
        found = json.loads(cluster.kubectl("get", "nodes", "-l", f"{ACCELERATOR}={accelerator}", "-o", "json"))["items"]
        return set(names) <= {node["metadata"]["name"] for node in found if _is_ready(node)}

    wait_until(ready, f"The nodes of {accelerator} are not ready", STARTED_SECONDS)
    return names


def _is_ready(node: dict[str, Any]) -> bool:
    conditions = {one["type"]: one["status"] for one in node["status"].get("conditions", [])}
    # The controllers take this taint off some moments after the node is ready; nothing is scheduled before.
    return conditions.get("Ready") == "True" and not node["spec"].get("taints")


def _processes(cluster: Cluster, folder: Path, writes_per_second: int) -> Iterator[Process]:
    pki = cluster.folder / "pki"
    kubeconfig = f"--kubeconfig={cluster.kubeconfig}"
    ports = free_ports(2)
    clients = (f"--kube-api-qps={writes_per_second}", f"--kube-api-burst={2 * writes_per_second}")
    own = {
        "kube-controller-manager": (
            f"--service-account-private-key-file={pki / 'service-accounts.key'}",
            f"--root-ca-file={pki / 'ca.crt'}",
        ),
        "kube-scheduler": (),
    }
    for (name, flags), port in zip(own.items(), ports, strict=True):
        server = ("--leader-elect=false", "--bind-address=127.0.0.1", f"--secure-port={port}")
        yield Process(name, (str(program(name)), kubeconfig, *server, *clients, *flags))
    config = folder / "kwok.yaml"
    config.write_text(yaml.safe_dump_all(_stages()))
    selector = f"--manage-nodes-with-annotation-selector={MANAGED}=fake"
    lease = "--node-lease-duration-seconds=40"
    yield Process(
        "kwok",
        (str(program("kwok")), kubeconfig, f"--config={config}", "--manage-all-nodes=false", selector, lease),
        {"HOME": str(folder)},  # It reads a configuration there as well.
    )


def _stages() -> Iterator[dict[str, Any]]:
    """kwok's stages of nodes and pods, from its module; pods of Jobs and pools take the times of their annotations."""
    for name in _STAGES:
        stage = yaml.safe_load((_module() / "kustomize" / "stage" / f"{name}.yaml").read_text())
        if name in _DELAYS:
            stage["spec"]["delay"] = {"durationFrom": {"expressionFrom": f'.metadata.annotations["{_DELAYS[name]}"]'}}
        yield stage


def _module() -> Path:
    """The folder of kwok's module, which go.sum pins."""
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOWORK": "off"}
    command = (go(), "list", "-m", "-json", _KWOK)
    options: dict[str, Any] = {"cwd": MODULES / "kwok", "env": environment, "timeout": DOWNLOAD_SECONDS}
    subprocess.run((go(), "mod", "download", _KWOK), capture_output=True, check=True, **options)
    answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, **options).stdout)
    if "Dir" not in answer:
        raise DevError(f"The files of {_KWOK} cannot be had.")
    return Path(answer["Dir"])
