"""A release on a real API server: installed, upgraded, uninstalled and installed again. No pods run here."""

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.chart import CHART, render
from dev.control_plane import MANIFESTS, NAMESPACE, Cluster
from dev.errors import DevError
from dev.programs import program
from tests.cluster.pages import blocks, copied
from videojob.api import FINALIZER
from videojob.api.replica import pod_labels

Helm = Callable[..., str]
RELEASE = ("videojob", str(CHART), "--namespace", NAMESPACE)
POOL = {"accelerator": "cpu", "models": ["tiny"], "store": {"url": "file:///store"}, "scaling": {"maxReplicas": 2}}
MODEL = {
    "family": "AnyFlowFAR",
    "source": {"directory": "/models/tiny"},
    "precision": "float32",
    "memory": {"weightsBytes": 28_000_000_000, "perJobBytes": 1},
}


@pytest.fixture
def values(tmp_path: Path) -> str:
    """A queue, a model and a pool made by the release."""
    path = tmp_path / "values.yaml"
    path.write_text(
        json.dumps({"defaultQueue": {"namespaces": ["default"]}, "models": {"tiny": MODEL}, "pools": {"p": POOL}})
    )
    return str(path)


def _get(cluster: Cluster, *what: str) -> Any:
    return json.loads(cluster.kubectl("get", *what, "-o", "json"))


def _ours(cluster: Cluster) -> set[str]:
    """The names of videojob's CRDs in the cluster."""
    names = cluster.kubectl("get", "crds", "-o", "name").split()
    return {name for name in names if name.endswith(".videojob.dev")}


def test_a_release_from_install_to_reinstall_keeps_what_it_should(bare: Cluster, helm: Helm, values: str) -> None:
    # Custom resources of the values are made although their kinds come with the same release.
    helm("install", *RELEASE, "--values", values)
    pool = _get(bare, "gpupool", "p")
    assert _get(bare, "videomodel", "tiny")["spec"]["memory"]["weightsBytes"] == 28_000_000_000
    bare.kubectl("get", "--namespace", "default", "videoqueue", "default")

    # An upgrade changes them, leaves alone what others wrote, and replaces nothing.
    bare.kubectl("annotate", "gpupool", "p", "videojob.dev/paused=true")
    helm("upgrade", *RELEASE, "--values", values, "--set=pools.p.scaling.maxReplicas=3,operator.replicas=3")
    upgraded = _get(bare, "gpupool", "p")
    assert upgraded["spec"]["scaling"]["maxReplicas"] == 3
    assert upgraded["metadata"]["uid"] == pool["metadata"]["uid"]
    assert upgraded["metadata"]["annotations"]["videojob.dev/paused"] == "true"
    assert _get(bare, "--namespace", NAMESPACE, "deployment", "videojob-operator")["spec"]["replicas"] == 3

    # What is taken out of the values is kept, and so is everything that jobs need when the release goes.
    helm("upgrade", *RELEASE)
    helm("uninstall", "videojob", "--namespace", NAMESPACE, "--no-hooks")
    assert _get(bare, "gpupool", "p")["metadata"]["uid"] == pool["metadata"]["uid"]
    bare.kubectl("get", "videomodel", "tiny")
    crds = _ours(bare)
    assert len(crds) == 4
    with pytest.raises(DevError, match="NotFound"):
        bare.kubectl("get", "--namespace", NAMESPACE, "deployment", "videojob-operator")
    left = bare.kubectl("get", "clusterroles,clusterrolebindings", "-o", "name")
    assert "videojob" not in left

    # A reinstall takes over what was kept.
    helm("install", *RELEASE, "--values", values)
    assert _get(bare, "gpupool", "p")["metadata"]["uid"] == pool["metadata"]["uid"]
    assert _get(bare, "gpupool", "p")["spec"]["scaling"]["maxReplicas"] == 2

    # Unless the values do not keep them.
    helm("upgrade", *RELEASE, "--set=crds.keep=false")
    helm("uninstall", "videojob", "--namespace", NAMESPACE, "--no-hooks")
    # The API server empties them first, and pauses ever longer where it finds itself too busy for that.
    bare.kubectl("wait", "--for=delete", "--timeout=150s", *crds, seconds=160)
    assert _ours(bare) == set()


@pytest.mark.parametrize("namespaced", [False, True])
def test_hook_before_uninstall_may_do_its_work(bare: Cluster, helm: Helm, namespaced: bool) -> None:
    """With no more than its own role: the jobs are let go, the pools' Deployments are gone, the operator is stopped."""
    bare.kubectl("apply", "--server-side", "-f", str(MANIFESTS / "crds"))
    switches = ("--set=crds.install=false", f"--set=namespaced.enabled={str(namespaced).lower()}")
    helm("install", *RELEASE, *switches)
    hooks = [each for each in render(*switches) if each["metadata"].get("annotations", {}).get("helm.sh/hook")]
    bare.apply(*(each for each in hooks if each["kind"] != "Job"))
    (job,) = (each for each in hooks if each["kind"] == "Job")
    shots = [{"prompt": "A fox.", "seconds": 1}]
    bare.apply(
        {
            "apiVersion": "videojob.dev/v1alpha1",
            "kind": "VideoJob",
            "metadata": {"name": "kept", "namespace": NAMESPACE, "finalizers": [FINALIZER]},
            "spec": {"model": "tiny", "shots": shots},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "pool-p", "namespace": NAMESPACE, "labels": pod_labels("p")},
            "spec": {
                "selector": {"matchLabels": pod_labels("p")},
                "template": {
                    "metadata": {"labels": pod_labels("p")},
                    "spec": {"containers": [{"name": "runner", "image": "runner"}]},
                },
            },
        },
    )
    (container,) = job["spec"]["template"]["spec"]["containers"]
    account = bare.service_account(job["spec"]["template"]["spec"]["serviceAccountName"])
    command = (sys.executable, *container["command"][1:], *container["args"])
    subprocess.run(command, env={**os.environ, "KUBECONFIG": str(account)}, timeout=60, check=True)

    assert "finalizers" not in _get(bare, "--namespace", NAMESPACE, "videojob", "kept")["metadata"]
    assert _get(bare, "--namespace", NAMESPACE, "deployment", "videojob-operator")["spec"]["replicas"] == 0
    with pytest.raises(DevError, match="NotFound"):
        bare.kubectl("get", "--namespace", NAMESPACE, "deployment", "pool-p")


def test_notes_can_be_followed_by_copying(bare: Cluster, helm: Helm, values: str) -> None:
    printed = helm("install", "studio", str(CHART), "--namespace", NAMESPACE, "--values", values)
    notes = printed.partition("NOTES:")[2]
    assert "installed as studio in videojob-system" in notes
    assert "Models: tiny" in notes
    assert "helm uninstall studio --namespace videojob-system --timeout 660s" in notes
    (command,) = re.findall(r"^    (kubectl apply .*?^    END)$", notes, re.MULTILINE | re.DOTALL)
    environment = {
        **os.environ,
        "KUBECONFIG": str(bare.kubeconfig),
        "PATH": f"{program('kubectl').parent}:{os.environ['PATH']}",
    }
    subprocess.run(("bash", "-ec", textwrap.dedent("    " + command)), env=environment, timeout=60, check=True)
    assert _get(bare, "--namespace", "default", "videojob", "first")["spec"]["model"] == "tiny"


def test_a_team_without_rights_on_the_cluster_installs_for_itself(bare: Cluster, helm: Helm, tmp_path: Path) -> None:
    # The team has Kubernetes' `admin` in its namespace, and nothing else. The controller manager, which does not run
    # here, makes that role of these three.
    bare.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team-a"}})
    for part in ("admin", "edit", "view"):
        role = f"--clusterrole=system:aggregate-to-{part}"
        bare.kubectl("create", "rolebinding", part, role, "--group=team-a", "--namespace=team-a")
    team = ("--kube-as-user", "member", "--kube-as-group", "team-a")
    namespaced = ("videojob", str(CHART), "--namespace", "team-a", *team, "--set=namespaced.enabled=true")

    with pytest.raises(DevError, match="forbidden"):
        helm("install", "videojob", str(CHART), "--namespace", "team-a", *team)
    helm("uninstall", "videojob", "--namespace", "team-a", "--no-hooks", "--ignore-not-found")

    # The administrator: once, and once for the team.
    once, bindings, _ = blocks("install", "For one namespace")
    copied(once, tmp_path, bare.kubeconfig)
    with pytest.raises(DevError, match="attempting to grant RBAC permissions not currently held"):
        helm("install", *namespaced)
    helm("uninstall", "videojob", "--namespace", "team-a", "--no-hooks", "--ignore-not-found")
    copied(bindings.replace("TEAM", "team-a"), tmp_path, bare.kubeconfig)

    printed = helm("install", *namespaced, "--set=defaultQueue.namespaces={team-a}")
    assert "GPUPool with `operatorNamespace: team-a`" in printed
    assert "NAMESPACE" not in printed.partition("NOTES:")[2]
    for verb in ("create", "delete"):
        who = ("--as=member", "--as-group=team-a", "--namespace=team-a")
        assert bare.kubectl("auth", "can-i", verb, "videojobs.videojob.dev", *who).strip() == "yes"
    hooks = [
        each
        for each in render("--set=namespaced.enabled=true", namespace="team-a")
        if "helm.sh/hook" in each["metadata"].get("annotations", {}) and each["kind"] != "Job"
    ]
    assert {each["kind"] for each in hooks} == {"ServiceAccount", "Role", "RoleBinding"}
    bare.kubectl("apply", "-f", "-", "--as=member", "--as-group=team-a", input=yaml.safe_dump_all(hooks))

    for account, verb, what, namespace, allowed in (
        ("operator", "patch", "videojobs.videojob.dev", "team-a", True),
        ("operator", "patch", "videojobs.videojob.dev", "default", False),
        ("operator", "list", "videojobs.videojob.dev", "", False),
        ("operator", "list", "gpupools.videojob.dev", "", True),
        ("operator", "patch", "gpupools.videojob.dev", "", False),
        ("operator", "create", "deployments.apps", "team-a", True),
        ("operator", "get", "secrets", "default", False),
        ("runner", "list", "videomodels.videojob.dev", "", True),
        ("runner", "list", "videojobs.videojob.dev", "default", False),
        ("runner", "create", "pods", "team-a", False),
    ):
        assert _may(bare, account, verb, what, namespace) == allowed, (account, verb, what, namespace)
    status = ("patch", "gpupools.videojob.dev", "", "--subresource=status")
    assert _may(bare, "operator", *status)
    assert not _may(bare, "runner", *status)


def _may(cluster: Cluster, account: str, verb: str, what: str, namespace: str, *more: str) -> bool:
    where = ("--namespace", namespace) if namespace else ("--all-namespaces",)
    who = f"--as=system:serviceaccount:team-a:videojob-{account}"
    try:
        return cluster.kubectl("auth", "can-i", verb, what, who, *where, *more).strip() == "yes"
    except DevError:
        return False
