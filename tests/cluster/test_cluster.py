"""The cluster on which all other tests of real pods run."""

import copy
import json
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from dev.cluster import cgroups
from dev.cluster import cluster as clusters
from dev.cluster.addresses import used_networks
from dev.cluster.cluster import GPUS, NODE, RealCluster
from dev.control_plane import NAMESPACE, wait_until
from dev.errors import DevError
from dev.local import MODEL
from dev.processes import marked
from dev.supervisor import read_pid
from tests.cluster.builders import TRITON_IMAGE, pod, with_empty_dir

ASK_API_SERVER = """
import json, socket, ssl, sys, urllib.request
account = "/var/run/secrets/kubernetes.io/serviceaccount"
request = urllib.request.Request(
    "https://kubernetes.default.svc/version", headers={"Authorization": "Bearer " + open(account + "/token").read()}
)
with urllib.request.urlopen(request, context=ssl.create_default_context(cafile=account + "/ca.crt")) as answer:
    version = json.load(answer)["gitVersion"]
print(json.dumps({"address": socket.gethostbyname("kubernetes.default.svc"), "version": version}))
"""
PUT_AND_GET = """
import obstore
from obstore.store import S3Store
store = S3Store("videos", endpoint="http://versitygw.videojob-store.svc:7070", region="us-east-1",
                client_options={"allow_http": True}, virtual_hosted_style_request=False)
obstore.put(store, "test/a", b"pixels", mode="create")
try:
    obstore.put(store, "test/a", b"others", mode="create")
except obstore.exceptions.AlreadyExistsError:
    print(bytes(obstore.get(store, "test/a").bytes()).decode())
"""


def test_the_node_is_ready_and_grants_accelerators(real: RealCluster) -> None:
    status = real.get("node", NODE)["status"]
    assert {"type": "Ready", "status": "True"}.items() <= {
        key: value for each in status["conditions"] if each["type"] == "Ready" for key, value in each.items()
    }.items()
    assert status["allocatable"]["nvidia.com/gpu"] == str(GPUS)


def test_a_pod_reaches_the_api_server_by_name_and_cluster_ip(real: RealCluster, restricted: str) -> None:
    real.cluster.apply(pod("asks", restricted, command=["python", "-c", ASK_API_SERVER]))
    succeeded(real, "asks", restricted)
    assert json.loads(real.logs("asks", restricted)) == {
        "address": real.addresses.network.api_server,
        "version": json.loads(real.kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"],
    }


def test_a_command_runs_in_a_pod(real: RealCluster, restricted: str) -> None:
    real.cluster.apply(pod("waits", restricted, command=["sleep", "1000"]))
    real.wait_for("pod", "waits", restricted, "condition=Ready")
    assert real.kubectl("exec", "waits", "-n", restricted, "--", "id", "-u").strip() == "10001"
    with pytest.raises(DevError, match="Read-only file system"):
        real.kubectl("exec", "waits", "-n", restricted, "--", "touch", "/opt/videojob/here")


@pytest.mark.parametrize("namespace", [NAMESPACE, clusters.STORE_NAMESPACE])
def test_a_privileged_pod_is_refused(real: RealCluster, namespace: str) -> None:
    refused = copy.deepcopy(pod("refused", namespace, command=["true"]))
    refused["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    with pytest.raises(DevError, match=r'violates PodSecurity "restricted'):
        real.cluster.apply(refused)


def test_triton_gets_ready_on_an_accelerator_without_root_or_a_writable_disk(
    real: RealCluster, restricted: str
) -> None:
    triton = pod(
        "triton",
        restricted,
        image=TRITON_IMAGE,
        args=["--repository=/run/videojob/repository", "--grpc-port=8001", "--http-port=8000", "--metrics-port=8002"],
        resources={"limits": {"nvidia.com/gpu": 1}},
        readinessProbe={"httpGet": {"path": "/v2/health/ready", "port": 8000}, "periodSeconds": 1},
    )
    with_empty_dir(triton, "run", "/run/videojob")
    with_empty_dir(triton, "shared", "/dev/shm", medium="Memory", sizeLimit="64Mi")
    real.cluster.apply(triton)
    real.wait_for("pod", "triton", restricted, "condition=Ready")


def test_the_store_takes_an_object_once(real: RealCluster) -> None:
    # In the system's namespace, where the store's Secret is.
    secret = [{"secretRef": {"name": "videojob-store"}}]
    real.cluster.apply(pod("puts", NAMESPACE, command=["python", "-c", PUT_AND_GET], envFrom=secret))
    try:
        succeeded(real, "puts", NAMESPACE)
        assert real.logs("puts", NAMESPACE) == "pixels\n"
    finally:
        real.kubectl("delete", "pod", "puts", "-n", NAMESPACE)


def test_a_container_beyond_its_memory_is_killed(real: RealCluster, restricted: str) -> None:
    greedy = pod(
        "greedy",
        restricted,
        command=["python", "-c", "b'x' * (256 << 20)"],
        resources={"limits": {"memory": "64Mi"}},
    )
    real.cluster.apply(greedy)
    real.wait_for("pod", "greedy", restricted, "jsonpath={.status.phase}=Failed")
    (status,) = real.get("pod", "greedy", "-n", restricted)["status"]["containerStatuses"]
    assert status["state"]["terminated"]["reason"] == "OOMKilled"


def test_pods_and_accelerators_survive_the_kubelet(real: RealCluster, restricted: str) -> None:
    real.cluster.apply(pod("stays", restricted, command=["sleep", "1000"], resources={"limits": {"nvidia.com/gpu": 1}}))
    real.wait_for("pod", "stays", restricted, "condition=Ready")
    began = heartbeat(real)
    before = read_pid(real.folder, "kubelet")
    assert before is not None
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: read_pid(real.folder, "kubelet") != before, "kubelet is not started again", 30)
    wait_until(lambda: heartbeat(real) != began and ready(real), "The node does not come back", 60)
    assert real.get("node", NODE)["status"]["allocatable"]["nvidia.com/gpu"] == str(GPUS)
    (status,) = real.get("pod", "stays", "-n", restricted)["status"]["containerStatuses"]
    assert (status["restartCount"], status["ready"]) == (0, True)


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
def test_nothing_is_left_of_a_cluster(real_pods: None, tmp_path: Path, killed: bool) -> None:
    starter, other = clusters.start(tmp_path, MODEL.parent, print)
    try:
        other.cluster.apply(pod("stays", "default", command=["sleep", "1000"]))
        other.wait_for("pod", "stays", "default", "condition=Ready")
        processes = {*marked(tmp_path), *containers(tmp_path)}
        if killed:
            supervisor = read_pid(tmp_path, "supervisor")
            assert supervisor is not None
            os.kill(supervisor, signal.SIGKILL)
            wait_until(lambda: not running(processes), "Processes outlive the supervisor", 30)
    finally:
        assert clusters.stop(tmp_path)
        starter.stop()  # It has ended: what is left are its pipes, and its exit status.
    assert not running(processes)
    assert other.addresses.block not in used_networks()
    assert not Path("/sys/class/net", other.addresses.interface).exists()
    assert not list(Path("/sys/fs/cgroup").glob(f"**/{cgroups.name(tmp_path)}"))
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"log", "run"}
    assert not clusters.stop(tmp_path)


def succeeded(real: RealCluster, name: str, namespace: str) -> None:
    try:
        real.wait_for("pod", name, namespace, "jsonpath={.status.phase}=Succeeded")
    except DevError as error:
        pytest.fail(f"{error} {real.logs(name, namespace)}")


def ready(real: RealCluster) -> bool:
    return any(
        each["type"] == "Ready" and each["status"] == "True" for each in real.get("node", NODE)["status"]["conditions"]
    )


def heartbeat(real: RealCluster) -> str:
    renewed: str = real.get("lease", NODE, "-n", "kube-node-lease")["spec"]["renewTime"]
    return renewed


def containers(folder: Path) -> list[int]:
    """Processes of the cluster's pods, by this machine's ids."""
    return [
        int(line)
        for path in Path("/sys/fs/cgroup").glob(f"**/{cgroups.name(folder)}/**/cgroup.procs")
        for line in path.read_text().split()
    ]


def running(processes: set[int]) -> set[int]:
    """Those that have not ended; one that nobody has waited for yet has no command line."""
    found = set()
    for pid in processes:
        with suppress(OSError):
            if Path("/proc", str(pid), "cmdline").read_bytes():
                found.add(pid)
    return found
