"""A real API server with TLS and RBAC, and kubeconfigs for those who use it.

It listens on loopback, or, for a cluster with nodes, where pods reach it (`Network`). Everything secret lies in one
folder that only its owner can read. Certificates and ports are new at every start; etcd's data stays, so objects
outlive a restart.
"""

import ipaddress
import json
import random
import re
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme
from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from dev.errors import DevError
from dev.programs import program
from dev.supervisor import Process, Supervisor, crash_loop

MANIFESTS = Path(__file__).parent.parent / "manifests"
NAMESPACE = "videojob-system"
READY_SECONDS = 60
KUBECTL_SECONDS = 60
TOKEN_HOURS = 24 * 365
"""Tokens of the service accounts: nothing here renews them while a local cluster is left running."""

_LOG_LINE = re.compile(r"[EWIF]\d{4} ")
"""Lines that kubectl's libraries log beside its own output."""


@dataclass(frozen=True)
class Network:
    """The network of a cluster with nodes, as the API server is configured with it."""

    host: str
    """The address of this machine that nodes and pods reach; the API server listens there."""
    node: str
    """The address of the node."""
    services: str
    """The range of ClusterIPs; its first address is that of the API server's own service."""

    @property
    def api_server(self) -> str:
        """The ClusterIP of the API server."""
        return str(ipaddress.ip_network(self.services)[1])


LOOPBACK = "127.0.0.1"
NODE_USERS = {
    "kube-controller-manager": ("system:kube-controller-manager", None),
    "kube-scheduler": ("system:kube-scheduler", None),
    "kube-proxy": ("system:kube-proxy", None),
    "kubelet": ("system:node:local", "system:nodes"),
}
"""User and group of each program that a cluster with nodes has beside its API server."""


@dataclass(frozen=True)
class Cluster:
    """An API server, as an administrator sees it."""

    folder: Path
    """Where kubeconfigs are written; readable by the owner alone."""
    kubeconfig: Path
    """The administrator's."""

    def kubectl(
        self,
        *arguments: str,
        input: str = "",  # noqa: A002 - as subprocess calls it
        kubeconfig: Path | None = None,
        seconds: float = KUBECTL_SECONDS,
    ) -> str:
        """Run kubectl as the administrator, or as the user of `kubeconfig`, for at most `seconds`; returns its output.

        Raises:
            DevError: kubectl failed; the sentence is its own.
        """
        command = (str(program("kubectl")), "--kubeconfig", str(kubeconfig or self.kubeconfig), *arguments)
        try:
            result = subprocess.run(command, input=input, capture_output=True, text=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired as error:
            raise DevError(f"kubectl {arguments[0]} took more than {seconds:g} s.") from error
        if result.returncode != 0:
            answer = "\n".join(line for line in result.stderr.splitlines() if not _LOG_LINE.match(line))
            raise DevError(f"kubectl {arguments[0]}: {answer.strip()}")
        return result.stdout

    def install(self) -> None:
        """Apply the CRDs, the namespace and the roles, and wait until the CRDs are served."""
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", f"{MANIFESTS}/rbac")
        self.serve_crds(MANIFESTS / "crds")

    def serve_crds(self, *paths: Path) -> None:
        """Apply the CRDs of files or folders, and wait until they are served.

        Raises:
            DevError: one is refused, or not served within a while.
        """
        files = [argument for path in paths for argument in ("-f", str(path))]
        self.kubectl("apply", "--server-side", "--force-conflicts", *files)
        # Asked again, because `kubectl wait` fails at once on a CRD that has no conditions yet.
        wait_until(
            lambda: bool(self.kubectl("wait", "--for=condition=Established", "--timeout=5s", *files)),
            "The CRDs are not served",
            READY_SECONDS,
        )
        # One that is established may still be "(re)initializing" its storage, and be refused until it has.
        names = self.kubectl("get", *files, "-o", "jsonpath={.items[*].metadata.name}{.metadata.name}").split()
        wait_until(
            lambda: self.kubectl("get", ",".join(names), "--all-namespaces", "-o", "name") is not None,
            "The objects of the CRDs are not served",
            READY_SECONDS,
        )

    def apply(self, *objects: dict[str, Any]) -> None:
        """Create the objects, or make them as given."""
        items = {"apiVersion": "v1", "kind": "List", "items": objects}
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=json.dumps(items))

    def service_account(self, name: str) -> Path:
        """A kubeconfig for a service account of the system's namespace, with nothing but its own rights."""
        token = self.kubectl("create", "token", name, "--namespace", NAMESPACE, f"--duration={TOKEN_HOURS}h").strip()
        path = self.folder / f"{name}.kubeconfig"
        return self.with_token(token, path)

    def with_token(self, token: str, path: Path) -> Path:
        """Write a kubeconfig for whoever the bearer token belongs to."""
        _write_kubeconfig(path, self.config()["clusters"][0]["cluster"], {"token": token})
        return path

    def with_certificate(self, name: str) -> Path:
        """A kubeconfig for one of NODE_USERS."""
        path = self.folder / f"{name}.kubeconfig"
        pki = self.folder / "pki"
        user = {"client-certificate": str(pki / f"{name}.crt"), "client-key": str(pki / f"{name}.key")}
        _write_kubeconfig(path, self.config()["clusters"][0]["cluster"], user)
        return path

    def config(self) -> dict[str, Any]:
        """The administrator's kubeconfig, with one context, and certificates in it rather than paths."""
        config: dict[str, Any] = json.loads(
            self.kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json")
        )
        return config


def start(supervisor: Supervisor, network: Network | None = None) -> Cluster:
    """Start etcd and kube-apiserver, and return when the API server is ready; with a network it takes nodes.

    Raises:
        DevError: they do not get ready; the sentence names a log.
    """
    folder = supervisor.folder / "cluster"
    folder.mkdir(mode=0o700, exist_ok=True)
    pki = _certificates(folder / "pki", network)
    etcd_port, peer_port, port = free_ports(3)
    supervisor.run(_etcd(folder / "etcd", pki, etcd_port, peer_port))
    supervisor.run(_api_server(pki, port, etcd_port, network))
    kubeconfig = supervisor.folder / "kubeconfig"
    _write_kubeconfig(
        kubeconfig,
        {
            "server": f"https://{network.host if network else LOOPBACK}:{port}",
            "certificate-authority": str(pki / "ca.crt"),
        },
        {"client-certificate": str(pki / "admin.crt"), "client-key": str(pki / "admin.key")},
    )
    cluster = Cluster(folder, kubeconfig)
    wait_until(
        lambda: cluster.kubectl("get", "--raw", "/readyz") == "ok",
        "The API server is not ready",
        READY_SECONDS,
        lambda: crash_loop(supervisor.folder, ("etcd", "kube-apiserver")),
    )
    return cluster


def existing(kubeconfig: Path, folder: Path) -> Cluster:
    """A cluster that already runs; the folder gets a copy of its kubeconfig, as that of one started there.

    Raises:
        DevError: it does not answer.
    """
    (folder / "cluster").mkdir(mode=0o700, parents=True, exist_ok=True)
    given = Cluster(folder / "cluster", kubeconfig)
    given.kubectl("get", "--raw", "/readyz")
    config = given.config()
    _write_kubeconfig(folder / "kubeconfig", config["clusters"][0]["cluster"], config["users"][0]["user"])
    return Cluster(given.folder, folder / "kubeconfig")


def wait_until(
    condition: Callable[[], bool], otherwise: str, seconds: float, broken: Callable[[], str | None] = lambda: None
) -> None:
    """Wait until the condition holds, or `broken` returns why it never will.

    Raises:
        DevError: it does not hold within the time; the sentence is that of `broken`, or `otherwise` and the last error.
    """

    def attempt() -> None:
        reason = broken()
        if reason is not None:
            raise DevError(f"{otherwise}: {reason}")
        try:
            if condition():
                return
        except DevError as error:
            raise _NotYetError(str(error)) from error
        raise _NotYetError(f"not within {seconds:g} s")

    retrying = Retrying(
        stop=stop_after_delay(seconds), wait=wait_fixed(0.25), retry=retry_if_exception_type(_NotYetError)
    )
    try:
        retrying(attempt)
    except RetryError as error:
        raise DevError(f"{otherwise}: {error.last_attempt.exception()}") from error


class _NotYetError(Exception):
    """The condition does not hold yet."""


def free_ports(count: int) -> list[int]:
    """Loopback ports that nothing listens on, outside the range that outgoing connections take theirs from."""
    ports: list[int] = []
    for port in random.sample(range(20000, 32000), 1000):
        with socket.socket() as candidate:
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise DevError("There is no free port between 20000 and 32000.")


def _certificates(folder: Path, network: Network | None) -> Path:
    folder.mkdir(mode=0o700, exist_ok=True)
    authority = trustme.CA(organization_name="videojob local cluster")
    authority.cert_pem.write_to_path(folder / "ca.crt")
    names = ["127.0.0.1", "localhost"]
    issued = {
        "etcd-client": authority.issue_cert("kube-apiserver", common_name="kube-apiserver"),
        "admin": authority.issue_cert("admin", common_name="admin", organization_name="system:masters"),
        "service-accounts": authority.issue_cert("service-accounts"),
    }
    if network is not None:
        names += [network.host, network.api_server, "kubernetes.default.svc"]
        issued["node"] = authority.issue_cert(network.node)
        for name, (user, group) in NODE_USERS.items():
            issued[name] = authority.issue_cert(name, common_name=user, organization_name=group)
    issued["server"] = authority.issue_cert(*names)
    for name, certificate in issued.items():
        certificate.cert_chain_pems[0].write_to_path(folder / f"{name}.crt")
        certificate.private_key_pem.write_to_path(folder / f"{name}.key")
    return folder


def _etcd(data: Path, pki: Path, port: int, peer_port: int) -> Process:
    client, peer = f"https://127.0.0.1:{port}", f"https://127.0.0.1:{peer_port}"
    flags = {
        "name": "local",
        "data-dir": data,
        "unsafe-no-fsync": "true",
        "log-level": "warn",
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"local={peer}",
    }
    for prefix in ("", "peer-"):
        flags[f"{prefix}cert-file"] = pki / "server.crt"
        flags[f"{prefix}key-file"] = pki / "server.key"
        flags[f"{prefix}trusted-ca-file"] = pki / "ca.crt"
        flags[f"{prefix}client-cert-auth"] = "true"
    return Process("etcd", _argv("etcd", flags))


def _api_server(pki: Path, port: int, etcd_port: int, network: Network | None) -> Process:
    address = network.host if network else LOOPBACK
    flags = {
        "etcd-servers": f"https://127.0.0.1:{etcd_port}",
        "etcd-cafile": pki / "ca.crt",
        "etcd-certfile": pki / "etcd-client.crt",
        "etcd-keyfile": pki / "etcd-client.key",
        "bind-address": address,
        "advertise-address": address,
        "secure-port": port,
        "tls-cert-file": pki / "server.crt",
        "tls-private-key-file": pki / "server.key",
        "client-ca-file": pki / "ca.crt",
        "anonymous-auth": "false",
        "authorization-mode": "Node,RBAC" if network else "RBAC",
        "service-account-issuer": "https://kubernetes.default.svc",
        "service-account-key-file": pki / "service-accounts.crt",
        "service-account-signing-key-file": pki / "service-accounts.key",
        "service-cluster-ip-range": network.services if network else "10.0.0.0/24",
    }
    if network is None:
        flags["endpoint-reconciler-type"] = "none"  # A loopback address is no endpoint for the kubernetes service.
    else:
        flags |= {
            "allow-privileged": "true",  # Pod Security decides, not a flag.
            "enable-admission-plugins": "NodeRestriction",
            "kubelet-preferred-address-types": "InternalIP",
            "kubelet-certificate-authority": pki / "ca.crt",
            "kubelet-client-certificate": pki / "admin.crt",
            "kubelet-client-key": pki / "admin.key",
        }
    return Process("kube-apiserver", _argv("kube-apiserver", flags))


def _argv(name: str, flags: dict[str, Any]) -> tuple[str, ...]:
    return (str(program(name)), *(f"--{flag}={value}" for flag, value in flags.items()))


def _write_kubeconfig(path: Path, cluster: dict[str, Any], user: dict[str, Any]) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "local",
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": "local"}}],
        "clusters": [{"name": "local", "cluster": cluster}],
        "users": [{"name": "local", "user": user}],
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=2) + "\n")
