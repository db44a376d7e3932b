"""Configuration of the node's programs: containerd, CNI, kubelet and kube-proxy."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dev.cluster import cgroups, images
from dev.cluster.addresses import Addresses

SOCKET = "/run/containerd/containerd.sock"
"""In the node's mounts only."""


@dataclass(frozen=True)
class Node:
    """A node, as its programs must know it."""

    folder: Path
    """Of the cluster; certificates are in its `cluster/pki`, state in `node`."""
    addresses: Addresses
    kubeconfigs: Path
    """Folder of the kubeconfigs."""


def containerd(node: Node, *, runc: Path, cni: Path, spec: Path) -> str:
    """The configuration of containerd, TOML."""
    # The native snapshotter copies a root filesystem for every container: ours are small, and it works on any disk.
    return f"""version = 3
root = "{node.folder}/node/containerd"
state = "/run/containerd"

[grpc]
  address = "{SOCKET}"

[ttrpc]
  address = "{SOCKET}.ttrpc"

[plugins.'io.containerd.cri.v1.images']
  snapshotter = "native"

[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{images.PAUSE}"

[plugins.'io.containerd.cri.v1.runtime']
  # Without it runc cannot lower the score of a sandbox, where this machine does not let root do so.
  restrict_oom_score_adj = true

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  base_runtime_spec = "{spec}"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  BinaryName = "{runc}"
  SystemdCgroup = false

[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["{cni}"]
  conf_dir = "{node.folder}/node/cni"
"""


def network(node: Node) -> str:
    """The CNI configuration: every pod has a link of its own to the node, which routes."""
    plugin = {
        "type": "ptp",
        "ipMasq": False,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": node.addresses.pods}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": "/run/cni",
        },
    }
    return json.dumps({"cniVersion": "1.0.0", "name": "videojob", "plugins": [plugin]}, indent=2)


def kubelet(node: Node) -> str:
    """The configuration of kubelet."""
    pki = node.folder / "cluster" / "pki"
    return _config(
        "kubelet.config.k8s.io/v1beta1",
        "KubeletConfiguration",
        {
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(pki / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(pki / "node.crt"),
            "tlsPrivateKeyFile": str(pki / "node.key"),
            "containerRuntimeEndpoint": f"unix://{SOCKET}",
            "clusterDNS": [node.addresses.dns],
            "clusterDomain": "cluster.local",
            "resolvConf": str(node.folder / "node" / "resolv.conf"),
            "volumePluginDir": "/run/kubelet-plugins",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{cgroups.name(node.folder)}",
            "failCgroupV1": False,
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            # Only memory is watched: the disk is this machine's own, however full it is.
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "0%",
                "nodefs.inodesFree": "0%",
                "imagefs.available": "0%",
                "imagefs.inodesFree": "0%",
            },
            "imageGCHighThresholdPercent": 100,
            # A pod that came back from a failure is tried again soon: tests wait for it.
            "crashLoopBackOff": {"maxContainerRestartPeriod": "10s"},
            "nodeStatusUpdateFrequency": "4s",
            "serializeImagePulls": False,
        },
    )


def kube_proxy(node: Node) -> str:
    """The configuration of kube-proxy."""
    # The tables of connections are the whole machine's: nothing is set there.
    conntrack = {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}
    return _config(
        "kubeproxy.config.k8s.io/v1alpha1",
        "KubeProxyConfiguration",
        {
            "clientConnection": {"kubeconfig": str(node.kubeconfigs / "kube-proxy.kubeconfig")},
            "hostnameOverride": "local",
            "mode": "iptables",
            "clusterCIDR": node.addresses.pods,
            "conntrack": conntrack,
            "metricsBindAddress": "127.0.0.1:10249",
            "healthzBindAddress": "127.0.0.1:10256",
        },
    )


def _config(version: str, kind: str, fields: dict[str, Any]) -> str:
    return json.dumps({"apiVersion": version, "kind": kind, **fields}, indent=2)
