"""kill -9 of the runner and of Triton, at random moments, in every family: no commit is lost, no byte is another.

More moments are tried by `make bench`.
"""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.e2e.kills import JOBS, apply_model, kill_at_random
from tests.e2e.serving import serve, serving
from tests.e2e.system import MODEL, System

pytestmark = pytest.mark.timeout(900)

MOMENTS = 2

SUBJECTS = [(family, "float32") for family in JOBS] + [("AnyFlowFAR", "bfloat16")]


@pytest.fixture(scope="module", autouse=True)
def usual_model(installed: System) -> Iterator[None]:
    """Served again once all tests of this file have ended."""
    with serving(installed, MODEL):
        yield


@pytest.fixture(params=SUBJECTS, ids="-".join)
def served(system: System, tmp_path: Path, request: pytest.FixtureRequest) -> tuple[System, str, str]:
    """The system with a model of the family in that number format; the model's name, and the family."""
    family, precision = request.param
    model = apply_model(system, tmp_path / family, family, precision)
    serve(system, model)  # alone: a Triton that is started again loads all models of the pool
    return system, model, family


async def test_a_kill_at_any_moment_changes_no_byte(served: tuple[System, str, str]) -> None:
    system, model, family = served

    cost = await kill_at_random(system, model, JOBS[family], MOMENTS, Random(f"kills of {model}"))

    assert sorted(cost.killed) == ["runner", "triton"]
    assert cost.again == 0, "what was committed was made again"
