"""What the chart renders, checked by a real API server."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from dev.chart import CHART, render
from dev.control_plane import MANIFESTS, NAMESPACE, Cluster
from dev.errors import DevError
from tests.chart.conftest import DryRun

SAMPLES = MANIFESTS / "samples" / "scaling"
ROLES = ("Role", "ClusterRole")
Rule = tuple[str, str, str, str]
"""API group, resource, object name (empty for all) and verb."""


def _values(name: str) -> list[str]:
    return [] if name == "default" else ["--values", str(CHART / "ci" / f"{name}-values.yaml")]


@pytest.mark.parametrize("values", ["default", "everything", "namespaced"])
def test_real_api_server_accepts_every_object(values: str, dry_run: DryRun) -> None:
    dry_run(render(*_values(values)))


def test_dry_run_is_strict(dry_run: DryRun) -> None:
    (pool,) = (each for each in render(*_values("everything")) if each["kind"] == "GPUPool")
    pool["spec"]["unheardOf"] = True
    with pytest.raises(DevError, match="unheardOf"):
        dry_run([pool])


@pytest.mark.parametrize("values", ["default", "everything", "namespaced"])
def test_restricted_pod_security_admits_every_pod(values: str, cluster: Cluster, namespace: str) -> None:
    objects = render(*_values(values), namespace=namespace)
    cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    cluster.apply(*(each for each in objects if each["kind"] == "ServiceAccount"))
    pods = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": each["metadata"]["name"], "namespace": namespace}}
        | {"spec": each["spec"]["template"]["spec"]}
        for each in objects
        if each["kind"] in ("Deployment", "Job")
    ]
    assert len(pods) == 2
    for pod in pods:
        _create(cluster, pod)
        pod["spec"]["containers"][0]["securityContext"].pop("capabilities")
        with pytest.raises(DevError, match="violates PodSecurity"):
            _create(cluster, pod)


def _create(cluster: Cluster, pod: dict[str, Any]) -> None:
    cluster.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", input=yaml.safe_dump(pod))


@pytest.mark.parametrize("values", ["default", "everything", "namespaced"])
def test_nothing_assumes_ipv4(values: str) -> None:
    """On a cluster with IPv6 alone there is no such address, and a Service or policy for one would match nothing."""
    rendered = yaml.safe_dump_all(
        each for each in render(*_values(values)) if each["kind"] != "CustomResourceDefinition"
    )
    assert not re.search(r"(?<![\w.-])\d{1,3}(\.\d{1,3}){3}\b|IPv4|ipBlock|localhost", rendered)


@pytest.mark.parametrize("account", ["operator", "runner", "uninstall"])
def test_namespaced_mode_allows_the_same_by_other_roles(account: str) -> None:
    namespaced = render(*_values("namespaced"))
    wide = render()
    names = (f"videojob-{account}", f"videojob-namespaced-{account}")
    allowed = {rule for name in names for kind in ROLES for rule in _rules(namespaced, name, kind)}
    assert allowed == {rule for kind in ROLES for rule in _rules(wide, f"videojob-{account}", kind)}


def test_namespaced_mode_needs_nothing_of_the_cluster_but_models_and_pools() -> None:
    own = render("--set=namespaced.enabled=true", namespace="team-a")
    assert {each["metadata"].get("namespace") for each in own} == {"team-a"}
    namespaced = render(*_values("namespaced"))
    bound = [each["roleRef"]["name"] for each in namespaced if each["kind"] == "ClusterRoleBinding"]
    allowed = {rule for name in bound for rule in _rules(namespaced, name, "ClusterRole")}
    assert {(resource, verb) for _, resource, _, verb in allowed} == {
        *((resource, verb) for resource in ("videomodels", "gpupools") for verb in ("get", "list", "watch")),
        ("gpupools/status", "patch"),
    }


def test_a_team_has_the_rights_that_it_grants_to_its_release() -> None:
    """Kubernetes' `admin` has the rest: a release on a real API server shows that."""
    namespaced = render(*_values("namespaced"))
    roles = [each["metadata"]["name"] for each in namespaced if each["kind"] == "Role"]
    given = {rule for name in roles for rule in _rules(namespaced, name, "Role") if rule[0] == "videojob.dev"}
    held = _rules(namespaced, "videojob-namespaced-team", "ClusterRole")
    assert given < held
    assert {resource.partition("/")[0] for _, resource, _, _ in held} == {"videojobs", "videoqueues"}


@pytest.mark.parametrize("values", ["everything", "namespaced"])
def test_no_role_has_a_wildcard_or_may_enter_pods(values: str) -> None:
    objects = render(*_values(values))
    rules = {rule for each in objects for rule in _rules([each], each["metadata"]["name"], each["kind"])}
    assert rules
    assert not [rule for rule in rules if "*" in rule]
    forbidden = ("pods/exec", "pods/attach", "pods/portforward", "serviceaccounts/token", "roles", "clusterroles")
    assert not [rule for rule in rules if rule[1] in forbidden]
    assert {verb for _, resource, _, verb in rules if resource == "secrets"} == {"get"}
    # By name alone, but for the one that the operator writes.
    assert {verb for _, resource, name, verb in rules if resource == "configmaps" and not name} == {"get", "create"}
    assert {(name, verb) for _, resource, name, verb in rules if resource == "configmaps" and name} == {
        ("videojob-orphans", "patch")
    }


@pytest.mark.parametrize(
    ("role", "verb", "resource", "allowed"),
    [
        ("viewer", "list", "videojobs", True),
        ("viewer", "get", "videoqueues", True),
        ("viewer", "create", "videojobs", False),
        ("editor", "create", "videojobs", True),
        ("editor", "delete", "videojobs", True),
        ("editor", "patch", "videojobs/status", False),
        ("editor", "create", "videoqueues", False),
        ("editor", "patch", "gpupools", False),
    ],
)
def test_aggregated_role(role: str, verb: str, resource: str, allowed: bool) -> None:
    rules = _rules(render(), f"videojob-{role}", "ClusterRole")
    assert (("videojob.dev", resource, "", verb) in rules) == allowed


def test_scaling_samples_scale_what_the_operator_makes() -> None:
    pool, keda, hpa = (yaml.safe_load((SAMPLES / f"{name}.yaml").read_text()) for name in ("gpupool", "keda", "hpa"))
    deployment = f"pool-{pool['metadata']['name']}"
    assert pool["spec"]["scaling"] == {"mode": "External"}
    for scaler in (keda, hpa):
        assert scaler["metadata"]["namespace"] == NAMESPACE
        assert scaler["spec"]["scaleTargetRef"]["name"] == deployment
        assert scaler["spec"]["scaleTargetRef"].get("kind", "Deployment") == "Deployment"


def test_no_scaler_of_a_namespace_reaches_the_scale_of_a_pool(cluster: Cluster) -> None:
    """Why the samples name the Deployment: an HPA and KEDA ask for the scale of something in their own namespace."""
    pool = yaml.safe_load((SAMPLES / "gpupool.yaml").read_text())
    pool["spec"]["replicas"] = 1  # Without a number there is no scale at all.
    cluster.apply(pool)
    try:
        path = "/apis/videojob.dev/v1alpha1/{}gpupools/h200/scale"
        assert '"kind":"Scale"' in cluster.kubectl("get", "--raw", path.format(""))
        with pytest.raises(DevError, match="NotFound"):
            cluster.kubectl("get", "--raw", path.format(f"namespaces/{NAMESPACE}/"))
    finally:
        cluster.kubectl("delete", "gpupool", "h200")


def _rules(objects: Any, name: str, kind: str) -> set[Rule]:
    """All that the role of that name allows, one by one."""

    def expand(rule: dict[str, Any]) -> Iterator[Rule]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for verb in rule["verbs"]:
                    for each in rule.get("resourceNames", [""]):
                        yield group, resource, each, verb

    roles = (each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return {allowed for role in roles for rule in role.get("rules", []) for allowed in expand(rule)}
