"""The Deployment of a managed pool. That Kubernetes accepts it is shown on real pods."""

from dataclasses import replace
from typing import Any

import pytest

from tests.planner.builders import model, pool
from videojob.api.gpupool import GPUPool, GPUPoolSpec, Rollout
from videojob.api.podtemplate import PodTemplate, UserIDs
from videojob.workload.deployment import STOP_MARGIN_SECONDS, NoImageError, PodDefaults, deployment, shared_memory_bytes

SITE = PodDefaults(namespace="here", triton_image="triton:1", runner_image="runner:1", runner_account="account")


def managed_pool(template: dict[str, Any] | None = None, **spec: Any) -> GPUPool:
    """Pool p with that template, given as in YAML."""
    made = pool("p", accelerator="nvidia-h200")
    rest = made.spec.model_dump(exclude={"endpoints", "template"})
    return made.model_copy(
        update={"spec": GPUPoolSpec(**rest | {"template": PodTemplate.model_validate(template or {})} | spec)}
    )


def pod(template: dict[str, Any] | None = None, **spec: Any) -> Any:
    """The spec of the pool's pods."""
    return deployment(managed_pool(template, **spec), [model()], SITE, 1)["spec"]["template"]["spec"]


def test_a_pod_leaves_before_another_one_comes() -> None:
    found = deployment(managed_pool(), [model()], SITE, 3)
    assert found["metadata"]["name"] == "pool-p"
    assert found["metadata"]["namespace"] == "here"
    (owner,) = found["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"], owner["controller"]) == ("GPUPool", "p", "uid-p", True)
    assert found["spec"]["replicas"] == 3
    assert found["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": "25%"}
    assert found["spec"]["selector"]["matchLabels"].items() <= found["spec"]["template"]["metadata"]["labels"].items()


def test_replicas_that_another_controller_owns_are_left_out() -> None:
    assert "replicas" not in deployment(managed_pool(), [], SITE, None)["spec"]


def test_the_same_pool_gives_the_same_deployment() -> None:
    assert deployment(managed_pool(), [model()], SITE, 1) == deployment(managed_pool(), [model()], SITE, 1)


def test_labels_of_the_template_cannot_take_the_place_of_ours() -> None:
    labels = {"videojob.dev/pool": "another", "team": "film"}
    found = deployment(managed_pool({"labels": labels}), [], SITE, 1)["spec"]["template"]["metadata"]["labels"]
    assert found["videojob.dev/pool"] == "p"
    assert found["team"] == "film"


def test_triton_starts_before_the_runner_and_stops_after_it() -> None:
    found = pod({"terminationGracePeriodSeconds": 100})
    (triton,), (runner,) = found["initContainers"], found["containers"]
    assert (triton["name"], triton["restartPolicy"]) == ("triton", "Always")
    assert runner["name"] == "runner"
    assert f"--drain-seconds={100 - STOP_MARGIN_SECONDS}" in runner["args"]
    assert f"--cut-off-seconds={SITE.cut_off_seconds}" in runner["args"]
    assert found["terminationGracePeriodSeconds"] == 100


def test_every_pod_keeps_to_restricted_pod_security() -> None:
    found = pod()
    assert found["securityContext"]["runAsNonRoot"] is True
    assert found["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in (*found["initContainers"], *found["containers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    assert not any("hostPath" in volume for volume in found["volumes"])


@pytest.mark.parametrize("share", [1, 40, "10%"])
def test_as_many_pods_are_replaced_at_a_time_as_the_pool_allows(share: int | str) -> None:
    found = deployment(managed_pool(rollout=Rollout(max_unavailable=share)), [model()], SITE, 134)
    assert found["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": share}


@pytest.mark.parametrize(
    ("default", "template", "named"),
    [
        (UserIDs.FIXED, {}, True),
        (UserIDs.NAMESPACE, {}, False),
        (UserIDs.FIXED, {"userIDs": "Namespace"}, False),
        (UserIDs.NAMESPACE, {"userIDs": "Fixed"}, True),
    ],
)
def test_users_that_the_cluster_assigns_are_left_to_it(default: UserIDs, template: dict[str, Any], named: bool) -> None:
    site = replace(SITE, user_ids=default)
    context = deployment(managed_pool(template), [], site, 1)["spec"]["template"]["spec"]["securityContext"]
    ids = {"runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001}
    assert {key: value for key, value in context.items() if key in ids} == (ids if named else {})
    assert context["runAsNonRoot"] is True


def test_the_runner_alone_has_a_token() -> None:
    found = pod()
    assert found["automountServiceAccountToken"] is False
    assert found["serviceAccountName"] == "account"
    mounts = {
        container["name"]: {mount["name"] for mount in container["volumeMounts"]}
        for container in (*found["initContainers"], *found["containers"])
    }
    assert mounts["runner"] - mounts["triton"] == {"token"}


@pytest.mark.parametrize(
    ("template", "spec", "expected"),
    [
        ({}, {}, {"nvidia.com/gpu": 1}),
        # Of a pool that was stored before more than one was refused.
        ({}, {"accelerators_per_replica": 4}, {"nvidia.com/gpu": 4}),
        ({"resourceName": "amd.com/gpu"}, {}, {"amd.com/gpu": 1}),
        ({}, {"accelerator": "cpu"}, {}),
        ({"resourceName": "example.com/slice"}, {"accelerator": "cpu"}, {"example.com/slice": 1}),
        ({"tritonResources": {"limits": {"memory": "8Gi"}}}, {}, {"memory": "8Gi", "nvidia.com/gpu": 1}),
        # The count is the pool's, whatever the template says.
        ({"tritonResources": {"limits": {"nvidia.com/gpu": 8}}}, {}, {"nvidia.com/gpu": 1}),
    ],
)
def test_accelerators_belong_to_triton(
    template: dict[str, Any], spec: dict[str, Any], expected: dict[str, Any]
) -> None:
    found = pod(template, **spec)
    assert found["initContainers"][0]["resources"]["limits"] == expected
    assert found["containers"][0]["resources"]["limits"] == {}


def test_the_template_decides_fields_of_the_pod() -> None:
    given: dict[str, Any] = {
        "image": "own-triton:2",
        "runnerImage": "own-runner:2",
        "imagePullPolicy": "Always",
        "imagePullSecrets": [{"name": "registry"}],
        "nodeSelector": {"gpu": "h200"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "high",
        "runtimeClassName": "nvidia",
        "serviceAccountName": "own",
        "volumes": [{"name": "weights", "persistentVolumeClaim": {"claimName": "weights"}}],
        "volumeMounts": [{"name": "weights", "mountPath": "/models", "readOnly": True}],
        "env": [{"name": "HF_HOME", "value": "/models"}],
    }
    found = pod(given)
    (triton,), (runner,) = found["initContainers"], found["containers"]
    for field in (
        *("nodeSelector", "tolerations", "affinity", "priorityClassName", "runtimeClassName", "serviceAccountName"),
        "imagePullSecrets",
    ):
        assert found[field] == given[field]
    assert (triton["image"], runner["image"]) == ("own-triton:2", "own-runner:2")
    assert given["volumes"][0] in found["volumes"]
    for container in (triton, runner):
        assert container["imagePullPolicy"] == "Always"
        assert given["volumeMounts"][0] in container["volumeMounts"]
    assert {"name": "HF_HOME", "value": "/models"} in triton["env"]
    assert {"name": "HF_HOME", "value": "/models"} not in runner["env"]


def test_pull_secrets_of_the_operator_and_of_the_pool_are_in_every_pod_once() -> None:
    site = replace(SITE, image_pull_secrets=("registry", "mirror"))
    own = {"imagePullSecrets": [{"name": "own"}, {"name": "mirror"}]}
    pods = [deployment(managed_pool(given), [], site, 1)["spec"]["template"]["spec"] for given in ({}, own)]
    assert [each["name"] for each in pods[0]["imagePullSecrets"]] == ["registry", "mirror"]
    assert [each["name"] for each in pods[1]["imagePullSecrets"]] == ["own", "mirror", "registry"]
    assert "imagePullSecrets" not in pod()


def test_a_model_may_load_for_as_long_as_the_pool_allows() -> None:
    probe = pod({"modelLoadSeconds": 7200})["initContainers"][0]["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 7200


@pytest.mark.parametrize(
    ("site", "words"), [(PodDefaults(runner_image="r"), "--triton-image"), (PodDefaults(triton_image="t"), "--run")]
)
def test_a_missing_image_is_an_error(site: PodDefaults, words: str) -> None:
    with pytest.raises(NoImageError, match=words):
        deployment(managed_pool(), [], site, 1)


def test_shared_memory_holds_the_largest_chunk_of_any_model_for_every_slot() -> None:
    small, large = model("small", limits={"max_width": 64, "max_height": 64}), model("large")
    alone = shared_memory_bytes(managed_pool(), [large])
    assert shared_memory_bytes(managed_pool(), [small, large]) == alone
    assert shared_memory_bytes(managed_pool(), [small]) < alone
    assert shared_memory_bytes(managed_pool(jobs_per_replica=4), [large]) > alone
    assert shared_memory_bytes(managed_pool({"sharedMemoryBytes": 1 << 30}), [large]) == 1 << 30
    shm = next(volume for volume in pod({"sharedMemoryBytes": 1 << 30})["volumes"] if volume["name"] == "shm")
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "1024Mi"}
