"""A cluster with real pods on this machine: `python -m dev cluster`.

The control plane of `dev.control_plane` on the host, and one node in namespaces of its own (`node`): kubelet,
containerd and kube-proxy as root, pods from images that are made here (`images`). What the node does to mounts,
network, iptables and processes is gone with its namespaces, however it ends.
"""
