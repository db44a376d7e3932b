"""Start and stop the cluster with real pods: control plane, node, DNS, store, GPUs that are granted but not there."""

import json
import os
import secrets
import shutil
import string
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dev import control_plane
from dev import supervisor as supervisors
from dev.cluster import addresses as address_blocks
from dev.cluster import cgroups, configuration, images, machine, node
from dev.cluster.addresses import Addresses
from dev.cluster.oci import Image, archive
from dev.control_plane import NAMESPACE, NODE_USERS, Cluster, free_ports, wait_until
from dev.errors import DevError
from dev.programs import program
from dev.supervisor import Process, Supervisor, crash_loop

MANIFESTS = Path(__file__).parent / "manifests"
NODE = "local"
GPUS = 4
USER = 10001
"""User and group of the store's pod."""
STORE_NAMESPACE = "videojob-store"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
PROGRAMS = (
    *("etcd", "kube-apiserver", "kubectl", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"),
    *("containerd", "ptp", "pause", "coredns", "versitygw", "helm"),
)
"""Programs of the host and the node, and of the images."""
READY_SECONDS = 90
HELM_SECONDS = 300

Report = Callable[[str], None]


@dataclass(frozen=True)
class RealCluster:
    """A cluster that runs, as its administrator and as root of its node."""

    folder: Path
    cluster: Cluster
    addresses: Addresses

    def kubectl(self, *arguments: str, input: str = "", kubeconfig: Path | None = None) -> str:  # noqa: A002
        """Run kubectl, and return its output. Raises DevError where it fails."""
        return self.cluster.kubectl(*arguments, input=input, kubeconfig=kubeconfig)

    def get(self, *arguments: str) -> dict[str, Any]:
        """The JSON of `kubectl get`. Raises DevError where it fails."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return found

    def logs(self, pod: str, namespace: str, *options: str) -> str:
        """The logs of a pod. Raises DevError where there is none."""
        return self.kubectl("logs", pod, "-n", namespace, *options)

    def helm(self, *arguments: str) -> str:
        """Run helm, and return its output.

        Raises:
            DevError: it failed; the sentence is its own.
        """
        command = (str(program("helm")), "--kubeconfig", str(self.cluster.kubeconfig), *arguments)
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=HELM_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise DevError(f"helm {arguments[0]} took more than {HELM_SECONDS} s.") from error
        if result.returncode != 0:
            raise DevError(f"helm {arguments[0]}: {result.stderr.strip()}")
        return result.stdout

    def in_node(self, *command: str) -> str:
        """Run a command as root in the node, and return its output. Raises DevError where it fails."""
        return node.run(self.folder, *command)

    def import_image(self, image: Image) -> None:
        """Bring an image to the node; one of the same name is replaced. Raises DevError where that fails."""
        with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".tar") as file:
            file.write(archive(image))
            file.flush()
            self._ctr("images", "import", "--no-unpack", file.name)

    def remove_image(self, name: str) -> None:
        """Take an image from the node. Raises DevError where that fails."""
        self._ctr("images", "remove", "--sync", name)

    def apply_manifest(self, name: str, **values: str) -> None:
        """Apply one of this folder's manifests with its placeholders replaced."""
        text = string.Template((MANIFESTS / f"{name}.yaml").read_text()).substitute(values)
        self.cluster.apply(*yaml.safe_load_all(text))

    def wait_for(self, kind: str, name: str, namespace: str, event: str, seconds: int = 60) -> None:
        """Wait for a condition of `kubectl wait --for`, such as condition=Ready or delete.

        Raises:
            DevError: it does not come within the time.
        """
        options = (f"--for={event}", f"--timeout={seconds}s", "--namespace", namespace)
        self.cluster.kubectl("wait", *options, f"{kind}/{name}", seconds=seconds + 10)

    def wait_for_node(self) -> None:
        """Wait until the node has registered, grant it its accelerators, and wait for DNS and the store.

        Raises:
            DevError: something of it does not come, or keeps dying.
        """
        _wait(self.folder, ("kubelet",), lambda: bool(self.get("node", NODE)), "The node does not register")
        capacity = [{"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": str(GPUS)}]
        self.kubectl("patch", "node", NODE, "--subresource=status", "--type=json", "--patch", json.dumps(capacity))
        names = ("kubelet", "kube-controller-manager", "kube-scheduler", "kube-proxy")
        _wait(self.folder, names, lambda: _is_ready(self), "The node is not ready")
        self.wait_for("deployment", "coredns", "kube-system", "condition=Available", READY_SECONDS)
        self.wait_for("deployment", "versitygw", STORE_NAMESPACE, "condition=Available", READY_SECONDS)

    def _ctr(self, *arguments: str) -> str:
        return self.in_node(str(program("ctr")), "--address", configuration.SOCKET, "-n", "k8s.io", *arguments)


def connect(folder: Path) -> RealCluster | None:
    """The cluster that runs in the folder, if one does."""
    folder = folder.resolve()
    if not supervisors.is_running(folder):
        return None
    return RealCluster(folder, Cluster(folder / "cluster", folder / "kubeconfig"), _recall(folder))


def start(folder: Path, models: Path, report: Report) -> tuple[Supervisor, RealCluster]:
    """Start a new cluster in the folder, with the models of another; return when node, DNS and store are ready.

    Raises:
        DevError: this machine cannot, or it does not get ready. Whatever ends this early, nothing is left running.
    """
    machine.prepare()
    for name in PROGRAMS:
        program(name)
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    stop(folder)
    addresses = address_blocks.choose(folder, address_blocks.used_networks())
    _remember(folder, addresses)
    supervisor = Supervisor(folder)
    try:
        return supervisor, _start(supervisor, addresses, models, report)
    except BaseException:
        report("Stopping ...")
        stop(folder)
        supervisor.stop()
        raise


def stop(folder: Path) -> bool:
    """Stop the cluster of the folder, and what is left of a killed one, and remove all but its logs.

    Returns False if there was nothing.

    Raises:
        DevError: something does not end.
    """
    folder = folder.resolve()
    found = (folder / "node").is_dir()
    # First: an API server that is asked to stop waits for the pods that watch it.
    node.kill(folder)
    found = supervisors.stop(folder) or found
    cgroups.remove(folder)
    node.remove(folder)
    shutil.rmtree(folder / "cluster", ignore_errors=True)
    for name in ("kubeconfig", "addresses.json"):
        (folder / name).unlink(missing_ok=True)
    return found


def _start(supervisor: Supervisor, addresses: Addresses, models: Path, report: Report) -> RealCluster:
    folder = supervisor.folder
    report("Making the node ...")
    cgroups.make(folder)
    supervisor.run(_node(folder, addresses))
    _wait(folder, ("node",), lambda: bool(node.run(folder, "echo", "here")), "The node does not start")
    local = configuration.Node(folder, addresses, folder / "cluster")
    supervisor.run(_containerd(local))
    report("Starting etcd and kube-apiserver ...")
    cluster = control_plane.start(supervisor, addresses.network)
    kubeconfigs = {name: cluster.with_certificate(name) for name in NODE_USERS}
    for process in (*_controllers(folder, kubeconfigs), _kubelet(local, kubeconfigs["kubelet"]), _kube_proxy(local)):
        supervisor.run(process)
    real = RealCluster(folder, cluster, addresses)

    report("Importing images ...")
    _wait(folder, ("containerd",), lambda: bool(real._ctr("version")), "containerd does not answer")
    for image in (
        images.pause(),
        images.coredns(),
        images.versitygw(),
        images.videojob(),
        images.videojob_triton(),
    ):
        real.import_image(image)

    report("Waiting for the node, DNS and the store ...")
    _install(real, models)
    real.wait_for_node()
    return real


def _install(real: RealCluster, models: Path) -> None:
    """Install what is there before videojob: namespaces, DNS, the store and the claim with the models."""
    key, secret = f"videojob-{secrets.token_hex(4)}", secrets.token_hex(16)
    real.cluster.apply(
        *(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}}
            for name in (NAMESPACE, STORE_NAMESPACE)
        ),
        _secret("versitygw", STORE_NAMESPACE, {"ROOT_ACCESS_KEY_ID": key, "ROOT_SECRET_ACCESS_KEY": secret}),
        _secret("videojob-store", NAMESPACE, {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}),
    )
    real.apply_manifest("dns", DNS=real.addresses.dns)
    real.apply_manifest("store", OBJECTS=str(_objects(real.folder)))
    real.apply_manifest("models", MODELS=str(models), NAMESPACE=NAMESPACE)


def _objects(folder: Path) -> Path:
    """Where the store keeps its objects: a folder of its own user's, which outlives the store's pod."""
    path = folder / "node" / "objects"
    path.mkdir(parents=True, exist_ok=True)
    os.chown(path, USER, USER)
    return path


def _secret(name: str, namespace: str, values: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "stringData": values,
    }


def _is_ready(real: RealCluster) -> bool:
    status = real.get("node", NODE)["status"]
    conditions = {condition["type"]: condition for condition in status["conditions"]}
    if conditions["Ready"]["status"] != "True":
        raise DevError(conditions["Ready"]["message"])
    return "nvidia.com/gpu" in status["allocatable"]


def _wait(folder: Path, names: Iterable[str], condition: Callable[[], bool], otherwise: str) -> None:
    wait_until(condition, otherwise, READY_SECONDS, lambda: crash_loop(folder, names))


def _node(folder: Path, addresses: Addresses) -> Process:
    return Process("node", (*node.holder(folder), str(addresses.number)), {"PATH": machine.SEARCH_PATH})


def _containerd(local: configuration.Node) -> Process:
    own = local.folder / "node"
    (own / "cni").mkdir(parents=True, exist_ok=True)
    (own / "cni" / "10-videojob.conflist").write_text(configuration.network(local))
    default = subprocess.run(
        (str(program("ctr")), "oci", "spec"), capture_output=True, text=True, timeout=30, check=True
    )
    spec = own / "spec.json"
    spec.write_text(images.base_spec(json.loads(default.stdout)))
    config = own / "containerd.toml"
    runc, cni = machine.find("runc"), program("ptp").parent
    config.write_text(configuration.containerd(local, runc=runc, cni=cni, spec=spec))
    binary = program("containerd")
    path = f"{binary.parent}:{machine.SEARCH_PATH}"
    return Process("containerd", node.entered(local.folder, str(binary), "--config", str(config)), {"PATH": path})


def _kubelet(local: configuration.Node, kubeconfig: Path) -> Process:
    own = local.folder / "node"
    # Pods that ask for the node's DNS servers get none: there is nothing outside.
    (own / "resolv.conf").write_text("")
    config = own / "kubelet.json"
    config.write_text(configuration.kubelet(local))
    flags = {
        "config": config,
        "kubeconfig": kubeconfig,
        "hostname-override": NODE,
        "node-ip": local.addresses.node,
    }
    return _inside(local.folder, "kubelet", flags)


def _kube_proxy(local: configuration.Node) -> Process:
    config = local.folder / "node" / "kube-proxy.json"
    config.write_text(configuration.kube_proxy(local))
    return _inside(local.folder, "kube-proxy", {"config": config})


def _controllers(folder: Path, kubeconfigs: dict[str, Path]) -> list[Process]:
    pki = folder / "cluster" / "pki"
    ports = free_ports(2)
    flags: dict[str, dict[str, Any]] = {
        "kube-controller-manager": {
            "use-service-account-credentials": "true",
            "service-account-private-key-file": pki / "service-accounts.key",
            "root-ca-file": pki / "ca.crt",
        },
        "kube-scheduler": {},
    }
    return [
        Process(
            name,
            (
                str(program(name)),
                f"--kubeconfig={kubeconfigs[name]}",
                "--leader-elect=false",
                "--bind-address=127.0.0.1",
                f"--secure-port={port}",
                *(f"--{flag}={value}" for flag, value in own.items()),
            ),
        )
        for (name, own), port in zip(flags.items(), ports, strict=True)
    ]


def _inside(folder: Path, name: str, flags: dict[str, Any]) -> Process:
    argv = (str(program(name)), *(f"--{flag}={value}" for flag, value in flags.items()))
    return Process(name, node.entered(folder, *argv), {"PATH": machine.SEARCH_PATH})


def _remember(folder: Path, addresses: Addresses) -> None:
    (folder / "addresses.json").write_text(json.dumps({"number": addresses.number}))


def _recall(folder: Path) -> Addresses:
    return Addresses(json.loads((folder / "addresses.json").read_text())["number"])
