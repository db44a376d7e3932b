"""What a model allows, and which pools can run it."""

from typing import Any

import pytest

from tests.planner.builders import book, job, model
from tests.planner.deciding import decided
from videojob.api.reasons import Reason
from videojob.planner.decisions import Assign, Wait


@pytest.mark.parametrize(
    ("component", "runs"),
    [
        ({"name": "vae", "format": "bfloat16"}, False),
        ({"name": "text_encoder", "format": "bfloat16", "device": "cpu"}, True),
        ({"name": "vae", "directory": "/vae"}, True),
    ],
    ids=["in bfloat16", "in bfloat16 on the cpu", "as the rest"],
)
def test_a_cpu_pool_runs_float32_only_on_what_is_its_accelerator(component: dict[str, Any], runs: bool) -> None:
    (decision,) = decided(book(job(), models=[model(components=[component])]))
    if runs:
        assert isinstance(decision, Assign)
    else:
        assert isinstance(decision, Wait) and decision.reason is Reason.PRECISION_UNSUPPORTED
        assert decision.message.startswith("VideoModel tiny is bfloat16 and float32, but GPUPool p has no accelerator")
