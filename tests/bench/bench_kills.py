"""What kills cost: runner or Triton at random moments, in every family and both number formats.

VIDEOJOB_BENCH_KILLS sets the number of moments of each, VIDEOJOB_BENCH_SEED which ones.
"""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from dev.control_plane import Cluster
from tests.e2e.kills import JOBS, REPLICA, Cost, apply_model, kill_at_random, model_name
from tests.e2e.system import System
from tests.models.fixtures import tiny_model
from videojob.kube.client import GPU_POOLS, KubeClient

__all__ = ["tiny_model"]

KILLS = int(os.environ.get("VIDEOJOB_BENCH_KILLS", "20"))
SEED = int(os.environ.get("VIDEOJOB_BENCH_SEED", "0"))


@pytest.fixture
async def system(
    cluster: Cluster, client: KubeClient, namespace: str, tmp_path: Path, tiny_model: Path
) -> AsyncIterator[System]:
    """The whole system with one replica and a model of each family in each number format."""
    found = System(cluster, client, tmp_path, namespace, tiny_model, pool="kills")
    try:
        found.install(REPLICA)
        for family in JOBS:
            for precision in ("float32", "bfloat16"):
                apply_model(found, tmp_path / model_name(family, precision), family, precision)
        yield found
    finally:
        found.stop()


@pytest.mark.timeout(3600)
async def test_kills(system: System) -> None:
    """Prints a table; asserted is that every video is that of a quiet run, and that no commit was lost."""
    rows: dict[str, Cost] = {}
    for family in JOBS:
        for precision in ("float32", "bfloat16"):
            model = model_name(family, precision)
            await system.client.merge_patch(GPU_POOLS, system.pool, {"spec": {"models": [model]}})
            system.start(REPLICA)
            await system.ready(REPLICA)
            rows[model] = await kill_at_random(system, model, JOBS[family], KILLS, Random(f"{SEED} {model}"))
    print(f"\n\nKills of runner or Triton at random moments, seed {SEED}; every video is that of a quiet run.\n")
    print(f"  {'':<24}{'kills':>8}{'of Triton':>12}{'videos':>8}{'commits lost':>14}{'steps lost a kill':>20}")
    for model, cost in rows.items():
        lost = (cost.made - cost.needed) / len(cost.killed)
        killed = f"{len(cost.killed):>8}{cost.killed.count('triton'):>12}"
        print(f"  {model:<24}{killed}{cost.videos:>8}{cost.again:>14}{lost:>20.1f}")
    assert not sum(cost.again for cost in rows.values())
