"""Pools as Kubernetes takes them: on a real API server."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from dev.control_plane import MANIFESTS, Cluster
from dev.errors import DevError
from tests.api.admission import (
    PODS,
    POOL,
    SITE,
    Json,
    dry_run,
    is_taken,
    manifest,
    refusal,
    with_field,
)
from videojob.api.gpupool import GPUPool
from videojob.api.podtemplate import UserIDs
from videojob.workload.deployment import PodDefaults, deployment


@pytest.mark.parametrize("cpu", [0.5, 7.5, 4, "500m", "0.5", ".5", 1.5e9, "64Gi", "1e3", "12E"])
def test_quantities_are_taken_as_a_pod_takes_them(cluster: Cluster, namespace: str, cpu: float | str) -> None:
    given = {"requests": {"cpu": cpu}}
    pool = manifest("GPUPool", with_field(PODS, "template.runnerResources", given), f"quantity-{namespace}")
    container = {"name": "c", "image": "i", "resources": given}
    cluster.kubectl("create", "serviceaccount", "default", "--namespace", namespace)
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [container]}}
    for body in (pod, pool):
        dry_run(cluster, namespace, body)
    rendered = deployment(GPUPool.model_validate(pool), [], PodDefaults(namespace, "triton", "runner"), 1)
    rendered["metadata"]["ownerReferences"][0]["uid"] = "u"
    cluster.kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", input=json.dumps(rendered))


@pytest.mark.parametrize("url", ["[::1]:8001", "[fe80::1%eth0]:8001", "10.0.0.7:8001", "gpu-1.example.com:8001"])
def test_addresses_of_endpoints(cluster: Cluster, namespace: str, url: str) -> None:
    dry_run(cluster, namespace, manifest("GPUPool", with_field(POOL, "endpoints.0.url", url)))


@pytest.mark.parametrize("share", [1, 134, "25%", "100%", "1%"])
def test_rollouts_that_the_api_server_takes(cluster: Cluster, namespace: str, share: int | str) -> None:
    pool = manifest("GPUPool", with_field(PODS, "rollout.maxUnavailable", share))
    dry_run(cluster, namespace, pool)
    rendered = deployment(GPUPool.model_validate(pool), [], SITE, 1)
    assert rendered["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": share}
    rendered["metadata"]["ownerReferences"][0]["uid"] = "u"
    rendered["metadata"]["namespace"] = namespace
    dry_run(cluster, namespace, rendered)


def test_pods_whose_user_the_namespace_assigns_are_taken_where_a_fixed_one_is_refused(
    cluster: Cluster, namespace: str
) -> None:
    deployments = {
        "apiGroups": ["apps"],
        "apiVersions": ["v1"],
        "operations": ["CREATE"],
        "resources": ["deployments"],
    }
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": f"uids-{namespace}"},
        "spec": {
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "resourceRules": [deployments],
            },
            "validations": [
                {
                    "expression": " && ".join(
                        f"!has(object.spec.template.spec.securityContext.{field})"
                        for field in ("runAsUser", "runAsGroup", "fsGroup")
                    ),
                    "message": "runAsUser must be in the ranges: [1000680000, 1000689999]",
                }
            ],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": f"uids-{namespace}"},
        "spec": {"policyName": f"uids-{namespace}", "validationActions": ["Deny"]},
    }
    for body in (policy, binding):
        cluster.apply(body)

    def rendered(user_ids: str | None, default: UserIDs) -> Json:
        pool = GPUPool.model_validate(manifest("GPUPool", with_field(PODS, "template.userIDs", user_ids)))
        found = deployment(pool, [], replace(SITE, namespace=namespace, user_ids=default), 1)
        found["metadata"]["ownerReferences"][0]["uid"] = "u"
        return found

    # A policy takes effect some moments after it was created.
    until = Retrying(stop=stop_after_delay(30), wait=wait_fixed(0.2), retry=retry_if_result(bool))
    until(is_taken, cluster, namespace, rendered(None, UserIDs.FIXED))
    for fixed in (rendered(None, UserIDs.FIXED), rendered("Fixed", UserIDs.NAMESPACE)):
        assert "runAsUser must be in the ranges" in refusal(cluster, namespace, fixed)
    dry_run(cluster, namespace, rendered("Namespace", UserIDs.FIXED))
    dry_run(cluster, namespace, rendered(None, UserIDs.NAMESPACE))


@contextmanager
def without_the_rule(cluster: Cluster) -> Iterator[None]:
    """Meanwhile pools may have more than one accelerator a replica, as before it was refused."""
    pool = manifest("GPUPool", with_field(PODS, "acceleratorsPerReplica", 8), "probe")
    until_taken = Retrying(
        stop=stop_after_delay(30), wait=wait_fixed(0.2), retry=retry_if_result(lambda taken: not taken)
    )
    until_refused = until_taken.copy(retry=retry_if_result(bool))
    field = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/acceleratorsPerReplica"
    patch = json.dumps([{"op": "remove", "path": f"{field}/x-kubernetes-validations"}])
    try:
        cluster.kubectl("patch", "crd", "gpupools.videojob.dev", "--type=json", "--patch", patch)
        until_taken(is_taken, cluster, "default", pool)
        yield
    finally:
        cluster.serve_crds(MANIFESTS / "crds")
        # A CRD takes effect some moments after it was changed.
        until_refused(is_taken, cluster, "default", pool)


def test_a_pool_stored_with_more_accelerators_is_served_as_before_and_put_right(
    cluster: Cluster, namespace: str
) -> None:
    name = f"wide-{namespace}"
    stored = manifest("GPUPool", with_field(PODS, "acceleratorsPerReplica", 8), name)
    with without_the_rule(cluster):
        cluster.apply(stored)

    pool = GPUPool.model_validate_json(cluster.kubectl("get", "gpupool", name, "-o", "json"))
    (triton,) = deployment(pool, [], SITE, 1)["spec"]["template"]["spec"]["initContainers"]
    assert triton["resources"]["limits"]["nvidia.com/gpu"] == 8

    def merge(change: Json, *arguments: str) -> None:
        cluster.kubectl("patch", "gpupool", name, "--type=merge", "--patch", json.dumps(change), *arguments)

    # The operator writes its status, and who changes something else need not change this as well.
    merge({"status": {"desiredReplicas": 1}}, "--subresource=status")
    cluster.apply(with_field(stored, "spec.scaling.maxReplicas", 4))
    for other in (9, 2):
        with pytest.raises(DevError, match="no model uses more than one accelerator yet: make it 1"):
            merge({"spec": {"acceleratorsPerReplica": other}})
    merge({"spec": {"acceleratorsPerReplica": 1}})
    with pytest.raises(DevError, match="have more replicas"):
        cluster.apply(stored)
