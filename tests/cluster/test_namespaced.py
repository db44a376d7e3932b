"""A team without rights on the cluster installs for itself, by the blocks of docs/install.md, and gets its video."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.cluster import images
from dev.cluster.cluster import RESTRICTED, RealCluster
from dev.cluster.images import REGISTRY
from dev.control_plane import NAMESPACE
from dev.errors import DevError
from tests.cluster.pages import blocks, copied
from tests.cluster.release import POOL, QUICK, Release
from videojob.api import FINALIZER
from videojob.api.videojob import Phase

pytestmark = pytest.mark.timeout(900)

TEAM, TEAM_POOL = "team-a", "team-pool"
VERSION = "0.1.0"
"""Of the chart, and so of the images that the blocks name."""


@pytest.fixture
def alone(release: Release) -> Iterator[RealCluster]:
    """The cluster without its cluster-wide release, which is installed again afterwards."""
    release.submit("untouched", seconds=30)  # Long enough not to be done when the operator has stopped.
    release.until_chunks("untouched", 1)
    release.real.helm("uninstall", "videojob", "--namespace", NAMESPACE, "--wait", "--timeout", "4m")
    yield release.real
    release.install()
    release.change_pool(scaling=QUICK)


def test_a_team_gets_its_video_and_touches_nobody_else(alone: RealCluster, tmp_path: Path, undisturbed: str) -> None:
    real, team = alone, Release(alone, TEAM)
    before = Release(real, "default").job("untouched")
    administrator, member = real.cluster.kubeconfig, _member(real, tmp_path)
    once, bindings, install = (_filled(block) for block in blocks("install", "For one namespace"))
    for image in (images.videojob(VERSION), images.videojob_triton(VERSION)):
        real.import_image(image)
    try:
        _give_namespace(real)
        copied(once, tmp_path, administrator)
        copied(bindings, tmp_path, administrator)
        _give_pool(real)
        copied(f"{install.strip()} --wait", tmp_path, member)
        copied(f"kubectl apply --namespace {TEAM} -f manifests/samples/videoqueue.yaml", tmp_path, member)
        team.submit("theirs")
        assert team.video("theirs") == undisturbed
        job = team.job("theirs")
        assert job.status.assignment is None
        assert FINALIZER in job.metadata.finalizers
        assert Release(real, "default").job("untouched") == before
        assert before.status.phase is Phase.PENDING

        with pytest.raises(DevError, match="cannot list resource"):
            real.kubectl("get", "videojobs", "-n", "default", kubeconfig=member)
        copied(f"helm uninstall videojob --namespace {TEAM} --timeout 4m --wait", tmp_path, member)
        assert not real.get("pods", "-n", TEAM)["items"]
        assert team.job("theirs").status.phase is Phase.SUCCEEDED
    finally:
        real.kubectl("delete", "gpupool", TEAM_POOL, "--ignore-not-found")
        real.kubectl("delete", "namespace", TEAM, "--ignore-not-found", "--wait=false")
        real.kubectl("delete", "pv", f"{TEAM}-models", "--ignore-not-found", "--wait=false")


def _filled(block: str) -> str:
    return block.replace("TEAM", TEAM).replace("REGISTRY", REGISTRY)


def _member(real: RealCluster, folder: Path) -> Path:
    """A kubeconfig of a user who has the ClusterRole `admin` in the team's namespace, and no other rights."""
    config = real.cluster.config()
    config["users"][0]["user"] |= {"as": "member", "as-groups": [TEAM]}
    path = folder / "member.kubeconfig"
    path.write_text(json.dumps(config))
    return path


def _give_namespace(real: RealCluster) -> None:
    """Make what a team has before: a restricted namespace, `admin` there, models, the store's keys."""
    rbac = "rbac.authorization.k8s.io"
    secret = real.get("secret", "videojob-store", "-n", NAMESPACE)
    real.cluster.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TEAM, "labels": RESTRICTED}},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "admin", "namespace": TEAM},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "admin"},
            "subjects": [{"apiGroup": rbac, "kind": "Group", "name": TEAM}],
        },
        {**secret, "metadata": {"name": "videojob-store", "namespace": TEAM}},
    )
    models = real.get("persistentvolume", f"{NAMESPACE}-models")["spec"]["hostPath"]["path"]
    real.apply_manifest("models", MODELS=models, NAMESPACE=TEAM)


def _give_pool(real: RealCluster) -> None:
    """The administrator's pool for the team: like the one of everybody."""
    pool = real.get("gpupool", POOL)
    spec = {**pool["spec"], "operatorNamespace": TEAM}
    real.cluster.apply({**pool, "metadata": {"name": TEAM_POOL}, "spec": spec})
