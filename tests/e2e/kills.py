"""Kills of runner and Triton at random moments, and what they cost."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from dev.tiny_model import SIZES, make_model
from tests.e2e.recorder import recorded
from tests.e2e.system import System
from videojob.api.videojob import Phase, VideoJobStatus
from videojob.families import ComponentName

REPLICA = "blue"
KINDS = {
    "AnyFlowFAR": "anyflow-far",
    "Helios": "helios",
    "LTX": "ltx",
    "SkyReelsV2DiffusionForcing": "skyreels-v2-df",
    "Wan": "wan",
    "WanVACE": "wan-vace",
}
"""Of the tiny model, by family."""
FOX: dict[str, Any] = {"prompt": "a red fox", "seconds": 2}
OWL: dict[str, Any] = {"prompt": "a grey owl", "seconds": 1}
JOBS: dict[str, dict[str, Any]] = {
    "AnyFlowFAR": {"steps": 40, "shots": [FOX, OWL | {"memory": "Keep"}, OWL | {"memory": "Clear"}]},
    "Helios": {"steps": 30, "shots": [FOX, OWL | {"memory": "Keep"}, OWL | {"memory": "Refresh"}]},
    "LTX": {"steps": 100, "width": 64, "height": 64, "shots": [FOX, OWL, OWL]},
    "SkyReelsV2DiffusionForcing": {"steps": 40, "shots": [FOX, OWL | {"memory": "Keep"}, OWL | {"memory": "Clear"}]},
    "Wan": {
        "steps": 200,
        "negativePrompt": "blurred, low quality",
        "guidanceScale": 4.0,
        "shots": [FOX, OWL, OWL | {"negativePrompt": "white"}],
    },
    "WanVACE": {"steps": 40, "shots": [FOX, OWL | {"memory": "Keep"}, OWL | {"memory": "Clear"}]},
}
"""What is asked for, by family: three shots, of so many steps that they take seconds."""


@dataclass
class Cost:
    """What kills have cost."""

    killed: list[str] = field(default_factory=list)
    videos: int = 0
    made: int = 0
    """Steps of the denoiser."""
    needed: int = 0
    """Steps of videos that nothing happens to."""
    again: int = 0
    """Records of units and pieces that changed once they were there: none may."""


COMPONENTS = (ComponentName.TEXT_ENCODER, ComponentName.TRANSFORMER, ComponentName.VAE)
"""Of either family's pipeline."""


def model_name(family: str, precision: str) -> str:
    """Name of the VideoModel."""
    return f"{family.lower()}-{precision}"


def apply_model(system: System, directory: Path, family: str, precision: str) -> str:
    """A VideoModel of that family with tiny random weights, in that number format on the CPU; its name."""
    name = model_name(family, precision)
    components = [{"name": component, "format": precision, "device": "cpu"} for component in COMPONENTS]
    make_model(directory, SIZES["tiny"], KINDS[family])
    system.cluster.apply(
        {
            "apiVersion": "videojob.dev/v1alpha1",
            "kind": "VideoModel",
            "metadata": {"name": name},
            "spec": {
                "family": family,
                "source": {"directory": str(directory)},
                "precision": "float32",
                "components": components,
                "sinkLatents": 1,
                "windowLatents": 6,
                "memory": {"weightsBytes": 1, "perJobBytes": 1},
                "limits": {"maxWidth": 256, "maxHeight": 256, "maxSeconds": 5},
                "defaults": {"width": 64, "height": 48, "fps": 12, "steps": 2},
            },
        }
    )
    return name


async def kill_at_random(system: System, model: str, spec: dict[str, Any], moments: int, random: Random) -> Cost:
    """Make videos, and kill runner or Triton `moments` times meanwhile; each video is that of a quiet run.

    Of two kills in a row each has another victim, the first by chance.
    """
    replica, cost = system.replicas[REPLICA], Cost()
    victims: list[str] = []
    spec = {"model": model, **spec}
    before = _steps(system)
    quiet, lasts = await _quiet(system, model, spec)
    needed = _steps(system) - before
    while len(cost.killed) < moments:
        assert cost.videos < 10 * moments, f"jobs of {model} end before their moment comes"
        name = f"killed-{model}-{cost.videos}"
        before = _steps(system)
        await system.submit(name, **spec)
        async with recorded(system, name) as seen:
            while len(cost.killed) < moments:
                await system.until_status(name, _at_work, f"{name} is not at work")
                await asyncio.sleep(random.uniform(0, lasts))  # The moment itself is what is tried.
                if (await system.job(name)).status.phase.finished:
                    break
                victims = victims or random.sample(["runner", "triton"], 2)
                victim = victims.pop()
                if victim == "runner":
                    system.kill(replica.runner)
                else:
                    system.kill_triton(REPLICA)
                cost.killed.append(victim)
                system.start(REPLICA)
            status = await system.until_finished(name)
        assert (status.phase, status.failures) == (Phase.SUCCEEDED, 0), status
        assert system.output_sha256(status) == quiet, f"{name} is another video, after {cost.killed}"
        cost.again += sum(len(contents) - 1 for log in (seen.units, seen.records) for contents in log.values())
        cost.videos += 1
        cost.made += _steps(system) - before
        cost.needed += needed
    return cost


async def _quiet(system: System, model: str, spec: dict[str, Any]) -> tuple[str, float]:
    """sha256 of the video that nothing happens to, and the seconds for which its job is at work."""
    await system.submit(f"quiet-{model}", **spec)
    status = await system.until_finished(f"quiet-{model}")
    assert status.timing is not None
    return system.output_sha256(status), status.timing.running_seconds


def _at_work(status: VideoJobStatus) -> bool:
    return status.assignment is not None or status.phase.finished


def _steps(system: System) -> int:
    return len(system.replicas[REPLICA].faults.steps("denoiser"))
