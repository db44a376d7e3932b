"""Shots that begin and end with images, through the whole system."""

import io
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.e2e.serving import apply_wan, serving
from tests.e2e.system import MODEL, System
from videojob.api.conditions import ConditionType
from videojob.api.videojob import Phase

pytestmark = pytest.mark.timeout(900)

WAN = "wan-i2v-a14b"


def png(colour: str) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (80, 48), colour).save(data, "PNG")
    return data.getvalue()


def shot(**images: Any) -> dict[str, Any]:
    return {"prompt": "a red fox", "seconds": 1, **images}


INLINE = {"inline": b64encode(png("red")).decode()}
IN_STORE = {"store": "inputs/animals/fox.png"}
SHOTS = [shot(image=INLINE), shot(image=INLINE, lastImage=IN_STORE)]


@pytest.fixture(scope="module", autouse=True)
def wan(installed: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The VideoModel of a tiny Wan that begins with an image."""
    apply_wan(installed, tmp_path_factory.mktemp("models") / WAN, WAN, images={"first": "Required", "last": "Optional"})
    with serving(installed, MODEL, WAN):
        yield


def put(system: System, data: bytes) -> Path:
    path = system.store / system.namespace / IN_STORE["store"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


async def test_a_video_is_made_from_the_images_that_it_began_with(system: System) -> None:
    """Also where one is changed, and the runner is killed before the shot that ends with it."""
    put(system, png("blue"))
    quiet = await system.undisturbed(model=WAN, shots=SHOTS)
    blue = system.replicas["blue"]
    blue.faults.clear()
    blue.faults.hold("denoiser", 0)
    await system.submit("changed", model=WAN, shots=SHOTS)
    await system.until(lambda: _true(blue.faults.reached("denoiser")), "the denoiser is not reached")
    original = put(system, png("green"))
    system.kill(blue.runner)
    blue.faults.release("denoiser")
    system.start("blue")
    status = await system.until_finished("changed")

    assert (status.phase, status.failures) == (Phase.SUCCEEDED, 0), status
    assert system.output_sha256(status) == quiet
    assert original.read_bytes() == png("green")
    uid = (await system.job("changed")).metadata.uid
    await system.until(lambda: system.has_only_its_video(uid), "the copy does not go with the parts")
    await system.submit("anew", model=WAN, shots=SHOTS)
    assert system.output_sha256(await system.until_finished("anew")) != quiet


@pytest.mark.parametrize(
    ("shots", "reason", "words"),
    [
        ([SHOTS[0], shot(image={"store": "inputs/owl.png"})], "ImageNotFound", "shots[1].image is not in the store"),
        ([SHOTS[0], shot(image={"inline": "R0lGODlh"})], "ImageInvalid", "shots[1].image is no PNG and no JPEG."),
    ],
    ids=["missing", "another format"],
)
async def test_an_image_that_cannot_be_used_costs_no_step(
    system: System, shots: list[dict[str, Any]], reason: str, words: str
) -> None:
    steps = len(system.replicas["blue"].faults.steps("denoiser"))
    await system.submit(f"bad-{reason.lower()}", model=WAN, shots=shots)
    status = await system.until_finished(f"bad-{reason.lower()}")
    assert (status.phase, status.reason, status.attempts) == (Phase.FAILED, reason, 1)
    assert words in system.condition(status, ConditionType.FAILED)[2]
    assert len(system.replicas["blue"].faults.steps("denoiser")) == steps


@pytest.mark.parametrize(
    ("model", "shots", "reason"),
    [(MODEL, [SHOTS[0]], "ImageUnsupported"), (WAN, [shot()], "ImageMissing")],
    ids=["a model that takes none", "a model that needs one"],
)
async def test_images_that_do_not_fit_the_model_keep_a_job_waiting(
    system: System, model: str, shots: list[dict[str, Any]], reason: str
) -> None:
    name = f"waits-{reason.lower()}"
    await system.submit(name, model=model, shots=shots)
    status = await system.until_status(name, lambda status: status.reason == reason, "it does not wait")
    assert status.phase is Phase.PENDING
    await system.delete(name)


async def _true(value: bool) -> bool:
    return value
