"""The chart's release in real pods: what a platform team does with it, and faults of pods and nodes."""

import json
import os
import signal

import pytest

from dev.cluster import images
from dev.cluster.cluster import NODE
from dev.control_plane import NAMESPACE
from dev.errors import DevError
from dev.supervisor import read_pid
from tests.cluster.release import POOL, POOL_PODS, QUEUE, QUICK, Release
from videojob.api import FINALIZER
from videojob.api.conditions import ConditionType
from videojob.api.gpupool import GPUPool
from videojob.api.reasons import Reason
from videojob.api.videojob import Phase, VideoJob

pytestmark = pytest.mark.timeout(900)

OPERATOR = "app.kubernetes.io/component=operator"


def test_a_job_scales_the_pool_up_and_gets_its_video(installed: Release, first: tuple[VideoJob, GPUPool]) -> None:
    job, pool = first
    assert job.status.output is not None
    assert (job.status.output.frames, job.status.attempts, job.status.failures) == (96, 1, 0)
    assert pool.status.last_scaling is not None
    assert (pool.status.last_scaling.reason, pool.status.last_scaling.to_replicas) == ("ActivatedFromZero", 1)
    # What the operator has learnt from it stays on the pool.
    status = installed.pool().status
    assert status.cold_start_seconds is not None
    assert [entry.model for entry in status.estimates] == ["tiny-anyflow"]


def test_pods_comply_with_restricted_pod_security(release: Release) -> None:
    labels = release.real.get("namespace", NAMESPACE)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    release.submit("looked")
    release.until_chunks("looked", 1)
    pod = release.holder("looked")
    token = "/var/run/secrets/kubernetes.io/serviceaccount/token"
    in_runner = ("exec", pod, "-n", NAMESPACE, "-c", "runner", "--")
    assert release.real.kubectl(*in_runner, "id", "-u").strip() == "10001"
    assert release.real.kubectl(*in_runner, "test", "-r", token) == ""
    with pytest.raises(DevError):
        release.real.kubectl("exec", pod, "-n", NAMESPACE, "-c", "triton", "--", "test", "-e", token)


def test_the_pool_grows_with_its_backlog_and_shrinks_to_zero(release: Release, undisturbed: str) -> None:
    # A pool that has a replica would add none that comes too late: these jobs take less than a cold start.
    release.until_empty()
    release.change_pool(scaling={**QUICK, "maxReplicas": 2, "targetSeconds": 1})
    release.submit("a", "b", "c")
    release.until(lambda: release.pool().status.busy_replicas == 2, "There are no two busy replicas")
    assert {release.video(name) for name in ("a", "b", "c")} == {undisturbed}
    assert all(release.job(name).status.attempts == 1 for name in ("a", "b", "c"))
    release.until_empty()
    release.until_condition(ConditionType.READY, Reason.SCALED_TO_ZERO)
    status = release.pool().status
    assert (status.desired_replicas, status.ready_replicas, status.backlog_seconds) == (0, 0, 0)


def delete(release: Release, pod: str) -> None:
    release.real.kubectl("delete", "pod", pod, "-n", NAMESPACE, "--wait=false")


def kill(release: Release, pod: str) -> None:
    """The runner's container dies, as by the kernel for its memory."""
    release.real.in_node("pkill", "-KILL", "-f", "videojob.runner --pool")


def drain(release: Release, pod: str) -> None:
    release.real.kubectl("drain", NODE, f"--pod-selector={POOL_PODS}", "--delete-emptydir-data", "--timeout=50s")
    release.real.kubectl("uncordon", NODE)


@pytest.mark.parametrize("disturb", [delete, kill, drain])
def test_a_pod_that_goes_costs_no_chunk_and_no_byte(release: Release, undisturbed: str, disturb: object) -> None:
    release.submit("moved")
    before = release.until_chunks("moved", 2)
    holder = release.holder("moved")
    assert callable(disturb)
    disturb(release, holder)
    assert release.video("moved") == undisturbed
    after = release.job("moved")
    assert (after.status.failures, after.status.attempts) == (0, before.status.attempts + 1)
    assert after.status.cost is not None
    assert before.status.cost is not None


def test_a_node_that_is_deleted_takes_no_job_with_it(release: Release, undisturbed: str) -> None:
    release.submit("moved")
    release.until_chunks("moved", 2)
    holder = release.holder("moved")
    kubelet = read_pid(release.real.folder, "kubelet")
    assert kubelet is not None
    try:
        # The machine is gone: nobody reports from it, nobody starts a container there again.
        os.killpg(kubelet, signal.SIGSTOP)
        for process in ("videojob.runner --pool", "tritonserver"):
            release.real.in_node("pkill", "-KILL", "-f", process)
        release.real.kubectl("delete", "node", NODE)
        release.until(lambda: holder not in release.names(), "Kubernetes does not collect the node's pods")
    finally:
        os.killpg(kubelet, signal.SIGKILL)
    assert release.job("moved").status.phase is not Phase.SUCCEEDED
    release.real.wait_for_node()
    assert release.video("moved") == undisturbed
    after = release.job("moved")
    assert (after.status.failures, after.status.attempts) == (0, 2)


def test_an_upgrade_of_operator_and_pool_keeps_the_jobs(release: Release, undisturbed: str) -> None:
    for image in (images.videojob("next"), images.videojob_triton("next")):
        release.real.import_image(image)
    release.submit("kept")
    release.until_chunks("kept", 1)
    old = release.names()
    release.install("--set", "image.tag=next", "--set", "triton.image.tag=next")
    assert release.video("kept") == undisturbed
    assert release.job("kept").status.failures == 0
    release.until(lambda: not old & release.names(), "The pool's pods are the old ones")
    operators = release.pods(OPERATOR)
    assert {pod["spec"]["containers"][0]["image"].rpartition(":")[2] for pod in operators} == {"next"}
    release.install()


@pytest.mark.parametrize(
    ("template", "name", "condition", "reason", "words"),
    [
        pytest.param(
            {"image": "videojob.dev/local/none:1"},
            "other",
            ConditionType.IMAGES_PULLED,
            Reason.IMAGE_PULL_FAILED,
            "spec.template.image",
            id="no such image",
        ),
        pytest.param(
            {}, "broken", ConditionType.MODELS_LOADED, Reason.MODEL_LOAD_FAILED, "does not load", id="no such model"
        ),
        pytest.param(
            {"nodeSelector": {"gpu": "none"}},
            "other",
            ConditionType.PODS_SCHEDULED,
            Reason.UNSCHEDULABLE,
            "no node takes it",
            id="no such node",
        ),
        pytest.param(
            {"runnerResources": {"limits": {"memory": "48Mi"}}},
            "other",
            ConditionType.PODS_STABLE,
            Reason.CRASH_LOOP,
            "OOMKilled",
            id="too little memory",
        ),
        pytest.param(
            {"affinity": {"nodeAffinity": "none"}},
            "other",
            ConditionType.READY,
            Reason.TEMPLATE_REFUSED,
            "refuses the Deployment",
            id="no such affinity",
        ),
    ],
)
def test_a_pool_and_its_job_report_what_is_wrong(
    release: Release, template: dict[str, object], name: str, condition: ConditionType, reason: str, words: str
) -> None:
    pool, model = release.real.get("gpupool", POOL), release.real.get("videomodel", "tiny-anyflow")
    spec = {**pool["spec"], "models": [name], "template": {**pool["spec"]["template"], **template}}
    source = {"directory": "/models/none"} if name == "broken" else model["spec"]["source"]
    release.real.cluster.apply(
        {**model, "metadata": {"name": name}, "spec": {**model["spec"], "source": source}},
        {"apiVersion": pool["apiVersion"], "kind": "GPUPool", "metadata": {"name": "wrong"}, "spec": spec},
    )
    try:
        release.submit("waits", model=name)
        assert words in release.until_condition(condition, reason, "wrong")
        expected = Reason.POOL_NOT_READY if condition is ConditionType.MODELS_LOADED else reason
        release.until(
            lambda: release.job("waits").status.reason == expected,
            "The job does not have that reason",
            lambda: release.described("waits"),
        )
        assert release.job("waits").status.phase is Phase.PENDING
    finally:
        release.real.kubectl("delete", "gpupool/wrong", f"videomodel/{name}")


def test_one_operator_may_be_evicted_the_next_may_not(release: Release) -> None:
    release.until(lambda: len(release.pods(OPERATOR)) == 2, "There are no two operators")
    first, second = sorted(release.names(OPERATOR))
    with release.cordoned():
        evict(release, first)
        with pytest.raises(DevError, match="disruption budget"):
            evict(release, second)
    release.install()


def evict(release: Release, pod: str) -> None:
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": NAMESPACE}}
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction"
    release.real.kubectl("create", "--raw", path, "-f", "-", input=json.dumps(body))


@pytest.mark.parametrize(
    ("account", "verb", "what", "allowed"),
    [
        ("videojob-operator", "patch", "videojobs/status", True),
        ("videojob-operator", "create", "videojobs", False),
        ("videojob-operator", "create", "pods", False),
        ("videojob-operator", "list", "secrets", False),
        ("videojob-operator", "update", "gpupools", False),
        ("videojob-operator", "create", "pods/exec", False),
        ("videojob-runner", "patch", "videojobs/status", True),
        ("videojob-runner", "patch", "videojobs", False),
        ("videojob-runner", "delete", "videojobs", False),
        ("videojob-runner", "list", "pods", False),
        ("videojob-runner", "patch", "deployments.apps", False),
        ("videojob-runner", "list", "secrets", False),
    ],
)
def test_what_the_roles_allow(installed: Release, account: str, verb: str, what: str, allowed: bool) -> None:
    who = f"--as=system:serviceaccount:{NAMESPACE}:{account}"
    resource, _, subresource = what.partition("/")
    options = ("-n", NAMESPACE, *((f"--subresource={subresource}",) if subresource else ()))
    if allowed:
        assert installed.real.kubectl("auth", "can-i", verb, resource, who, *options).strip() == "yes"
    else:
        with pytest.raises(DevError):
            installed.real.kubectl("auth", "can-i", verb, resource, who, *options)


def test_what_is_not_allowed_is_refused(installed: Release) -> None:
    kubeconfig = installed.real.cluster.service_account("videojob-runner")
    with pytest.raises(DevError, match="cannot delete resource"):
        installed.real.kubectl("delete", "videoqueue", QUEUE, "-n", "default", kubeconfig=kubeconfig)
    kubeconfig = installed.real.cluster.service_account("videojob-operator")
    with pytest.raises(DevError, match="cannot list resource"):
        installed.real.kubectl("get", "secrets", "-n", NAMESPACE, kubeconfig=kubeconfig)


def test_jobs_outlive_an_uninstall(release: Release, undisturbed: str) -> None:
    release.submit("resumed", "dropped")
    release.until_chunks("resumed", 1)
    release.real.helm("uninstall", "videojob", "--namespace", NAMESPACE, "--wait", "--timeout", "4m")
    assert not release.pool_pods_left()
    for name in ("resumed", "dropped"):
        assert FINALIZER not in release.job(name).metadata.finalizers
    release.real.kubectl("delete", "videojob", "dropped", "-n", release.namespace, "--timeout=30s")
    release.install()
    release.change_pool(scaling=QUICK)
    assert release.video("resumed") == undisturbed
    after = release.job("resumed")
    assert FINALIZER in after.metadata.finalizers or after.status.phase is Phase.SUCCEEDED
    assert after.status.failures == 0
