"""The second family through the whole system: a clip with guidance, decoded in pieces, and resumed within."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.recorder import recorded
from tests.e2e.serving import apply_wan, serving
from tests.e2e.system import System
from tests.e2e.test_stops import let_go
from videojob.api.videojob import Phase
from videojob.media import probe

pytestmark = pytest.mark.timeout(900)

WAN = "wan"
CLIP: dict[str, Any] = {"model": WAN, "negativePrompt": "blurred, low quality", "guidanceScale": 4.0, "steps": 3}
PIECES = 5
"""Of 48 frames at 12 a second: 9, three of 12, and 3 of the last one's 4."""


@pytest.fixture(scope="module", autouse=True)
def wan(installed: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The VideoModel of a tiny Wan."""
    apply_wan(installed, tmp_path_factory.mktemp("models") / WAN, WAN)
    with serving(installed, WAN):
        yield


async def test_a_clip_becomes_a_video_piece_by_piece(system: System) -> None:
    await system.submit("clip", **CLIP)
    async with recorded(system, "clip") as seen:
        status = await system.until_finished("clip")

    assert status.phase is Phase.SUCCEEDED, status
    assert status.output is not None and status.progress is not None
    assert status.progress.summary == f"{PIECES}/{PIECES}"
    assert [record[0]["frames"] for _, record in sorted(seen.records.items())] == [9, 12, 12, 12, 3]
    video = probe(system.path(status.output.uri))
    assert (video.frames, video.duration_seconds, video.width, video.height) == (48, 4, 64, 48)


@pytest.mark.parametrize("killed", ["runner", "triton"])
async def test_a_kill_while_a_clip_is_decoded_costs_no_denoising(system: System, killed: str) -> None:
    quiet = await system.undisturbed(**CLIP)
    blue, name = system.replicas["blue"], f"clip-{killed}"
    await system.submit(name, **CLIP)
    async with recorded(system, name) as seen:
        await system.until_chunks(name, 1)
        blue.faults.hold("vae_decoder", 0)
        await system.until(lambda: _true(blue.faults.reached("vae_decoder")), "the decoder is not reached")
        denoised = len(blue.faults.steps("denoiser"))
        if killed == "runner":
            system.kill(blue.runner)
        else:
            system.kill_triton("blue")
        blue.faults.release("vae_decoder")
        system.start("blue")
        status = await system.until_finished(name)

    assert (status.phase, status.failures) == (Phase.SUCCEEDED, 0), status
    assert len(blue.faults.steps("denoiser")) == denoised, "the clip was denoised again"
    assert {index: len(contents) for index, contents in seen.records.items()} == dict.fromkeys(range(PIECES), 1)
    assert system.output_sha256(status) == quiet


async def test_a_suspended_clip_goes_on_from_the_step_that_it_had_come_to(system: System) -> None:
    """No step is made twice, though nothing of the clip was committed."""
    steps, held = 12, 7
    many = {**CLIP, "steps": steps}
    quiet = await system.undisturbed(**many)
    faults = system.replicas["blue"].faults
    faults.clear()
    faults.hold("denoiser", 0, "step", step=held)
    await system.submit("paused", **many)
    uid = (await system.job("paused")).metadata.uid
    await system.until(lambda: _true(faults.reached("denoiser")), "the denoiser is not reached")
    await system.change("paused", suspend=True)
    await let_go(system)

    status = await system.until_status("paused", lambda status: status.phase is Phase.SUSPENDED, "it is not suspended")
    # The denoiser asks before a unit and before its first step; then after each.
    assert [name.rpartition("-")[0] for name in system.files(uid)] == [f"partial/0/1-{held - 2}"]
    assert status.cost is not None
    before = status.cost.gpu_seconds.denoise
    assert before > 0

    await system.change("paused", suspend=False)
    async with recorded(system, "paused") as seen:
        status = await system.until_finished("paused")

    assert (status.phase, status.attempts, status.failures) == (Phase.SUCCEEDED, 2, 0), status
    assert len(faults.steps("denoiser")) - 4 == steps, "a step was made twice"
    assert seen.made(2) == set(range(PIECES))
    assert system.output_sha256(status) == quiet
    assert status.cost is not None and status.cost.gpu_seconds.denoise > before
    assert not any(name.startswith("partial/") for name in system.files(uid)), "it went with the commit of its unit"


async def _true(value: bool) -> bool:
    return value
