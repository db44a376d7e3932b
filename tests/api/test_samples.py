"""What people copy is what the API server takes."""

from pathlib import Path

import pytest

from dev.control_plane import MANIFESTS, Cluster
from dev.crds import FILES, foreign_crd

SAMPLES = sorted((MANIFESTS / "samples").rglob("*.yaml"))


@pytest.fixture(scope="module")
def serving(cluster: Cluster) -> Cluster:
    """The cluster, serving the kinds of others that samples are of."""
    cluster.serve_crds(*map(foreign_crd, FILES))
    return cluster


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_sample_is_taken(sample: Path, serving: Cluster) -> None:
    strict = ("--server-side", "--dry-run=server", "--validate=strict", "--force-conflicts")
    assert "(server dry run)" in serving.kubectl("apply", *strict, "-f", str(sample))
