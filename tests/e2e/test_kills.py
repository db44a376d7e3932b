"""kill -9 at random moments, in every family: no commit is lost, and the bytes of all shots are the same.

More moments are tried by `make bench`.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from tests.e2e.kills import JOBS, apply_model, kill_at_random
from tests.e2e.system import MODEL, System
from videojob.kube.client import GPU_POOLS

pytestmark = pytest.mark.timeout(900)

MOMENTS = 3


IN_BFLOAT16 = ("AnyFlowFAR", "Wan")
"""Families that are tried in both number formats: what the others share with these is what the format changes."""
SUBJECTS = [(family, "float32") for family in JOBS] + [(family, "bfloat16") for family in IN_BFLOAT16]


@pytest.fixture(params=SUBJECTS, ids="-".join)
async def served(
    system: System, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[System, str, str]]:
    """The system with a model of the family in that number format; the model's name, and the family."""
    family, precision = request.param
    model = apply_model(system, tmp_path / family, family, precision)
    await system.client.merge_patch(GPU_POOLS, system.pool, {"spec": {"models": [MODEL, model]}})
    yield system, model, family
    await system.client.merge_patch(GPU_POOLS, system.pool, {"spec": {"models": [MODEL]}})


async def test_a_kill_at_any_moment_changes_no_byte(served: tuple[System, str, str]) -> None:
    system, model, family = served

    cost = await kill_at_random(system, model, JOBS[family], MOMENTS, Random(f"kills of {model}"))

    assert len(cost.killed) == MOMENTS
    assert cost.again == 0, "what was committed was made again"
