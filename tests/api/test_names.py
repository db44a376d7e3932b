"""Names, on a real API server: all that are taken can be referred to."""

import pytest

from dev.control_plane import Cluster
from tests.api.admission import GOOD, MODEL, PODS, POOL, SITE, Json, dry_run, is_taken, manifest, refusal, with_field
from videojob.api.gpupool import GPUPool
from videojob.api.replica import POOL_LABEL, REPLICA_LABEL, lease_name
from videojob.workload.deployment import deployment

NAMES = [
    "a",
    "1",
    "wan2.1-t2v-1.3b",
    "team-a.night",
    "h100.eu-west",
    "a.b.c",
    "1.2",
    "n" * 41,
    "n" * 42,
    "n" * 63,
    f"{'n' * 31}.{'n' * 31}",
    "n" * 64,
    f"{'n' * 32}.{'n' * 31}",
    "Upper",
    "under_score",
    "-a",
    "a-",
    "a..b",
    "a/b",
]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_that_is_taken_can_be_referred_to(cluster: Cluster, namespace: str, name: str) -> None:
    """And every one that cannot is refused where it is given."""
    job = manifest("VideoJob", GOOD, name)
    references = {
        "VideoModel": (MODEL, [with_field(GOOD, "model", name)], [with_field(POOL, "models", [name])]),
        "VideoQueue": ({}, [with_field(GOOD, "queueName", name)], []),
    }
    for kind, (spec, jobs, pools) in references.items():
        taken = is_taken(cluster, namespace, manifest(kind, spec, name))
        for body in (*(manifest("VideoJob", one) for one in jobs), *(manifest("GPUPool", one) for one in pools)):
            assert is_taken(cluster, namespace, body) == taken, f"{kind} {name} is taken: {taken}"
    if is_taken(cluster, namespace, job):
        assert len(name) <= 63
    if is_taken(cluster, namespace, manifest("GPUPool", PODS, name)):
        labels = deployment(GPUPool.model_validate(manifest("GPUPool", PODS, name)), [], SITE, 1)
        labels["metadata"]["ownerReferences"][0]["uid"] = "u"
        labels["metadata"]["namespace"] = namespace
        dry_run(cluster, namespace, labels)
        assert len(f"{labels['metadata']['name']}-0123456789-abcde") <= 63
        replicas = [name, "n" * 63, "gpu-01.example.com"]
        assert len({lease_name(name, one) for one in replicas}) == len(replicas)
        for replica in replicas:
            dry_run(cluster, namespace, lease(name, replica))
    if is_taken(cluster, namespace, manifest("GPUPool", with_field(POOL, "endpoints.0.name", name))):
        dry_run(cluster, namespace, lease("n" * 41, name))


def lease(pool: str, replica: str) -> Json:
    """As a runner writes it."""
    labels = {POOL_LABEL: pool, REPLICA_LABEL: replica}
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": lease_name(pool, replica), "labels": labels},
        "spec": {"holderIdentity": replica},
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("h100.eu-west", "metadata.name: Invalid value: the name of a GPUPool has no dots: write h100-eu-west"),
        ("n" * 42, "metadata.name: Invalid value: the name has more than 41 characters: choose a shorter one"),
    ],
)
def test_a_pools_name_is_refused_with_what_to_write(cluster: Cluster, namespace: str, name: str, words: str) -> None:
    for spec in (POOL, PODS):
        assert words in refusal(cluster, namespace, manifest("GPUPool", spec, name))
