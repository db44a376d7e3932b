"""The videos that the data plane is measured with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from videojob.families import FAMILIES, Chunking, FamilyName, Plan, Shot, Video


@dataclass(frozen=True)
class Subject:
    """A video, and what makes it."""

    name: str
    family: FamilyName
    kind: str
    """Of `dev.tiny_model`."""
    pipeline: str
    """The class of diffusers."""
    frames: int
    """Of each shot."""
    fps: int
    steps: int
    width: int
    height: int
    wall_target: float
    """At most so much of the bare loop's wall time."""
    first_frame_target: float
    """Likewise of the first frame."""
    chunking: Chunking = field(default_factory=lambda: Chunking(first=1, later=3, sink=1, window=12))
    guidance_scale: float = 1.0
    negative_prompt: str | None = None
    chunked: bool = False
    """Whether the pipeline is told how the video is cut."""
    shots: int = 1
    """The pipeline is called for each."""

    @cached_property
    def plan(self) -> Plan:
        """How it is cut."""
        return FAMILIES[self.family].plan(self.chunking, Video((Shot(self.frames),) * self.shots, self.fps, self.steps))

    def prompts(self, prompt: str) -> list[str]:
        """Of each shot, from that of the video."""
        return [f"{prompt} Shot {number}." for number in range(self.shots)]

    def arguments(self) -> dict[str, Any]:
        """What the pipeline is called with, beside size, steps and noise."""
        found: dict[str, Any] = {"guidance_scale": self.guidance_scale}
        if self.negative_prompt is not None:
            found["negative_prompt"] = self.negative_prompt
        if self.chunked:
            found["chunk_partition"] = [len(unit.latents) for unit in self.plan.units]
        return found

    def job(self, prompt: str) -> dict[str, Any]:
        """What a VideoJob asks for, beside model and seed."""
        shots = [{"prompt": each, "seconds": self.frames / self.fps} for each in self.prompts(prompt)]
        size = {"width": self.width, "height": self.height, "steps": self.steps, "fps": self.fps}
        found = {**size, "shots": shots, "guidanceScale": self.guidance_scale}
        return found if self.negative_prompt is None else {**found, "negativePrompt": self.negative_prompt}


SUBJECTS: Final[Mapping[str, Subject]] = {
    subject.name: subject
    for subject in (
        # Eight chunks. Sink and window hold the whole video, because the bare loop remembers all of it.
        Subject(
            name="AnyFlow-FAR",
            family=FamilyName.ANYFLOW_FAR,
            kind="anyflow-far",
            pipeline="AnyFlowFARPipeline",
            frames=85,
            fps=17,
            steps=3,
            width=128,
            height=64,
            wall_target=0.85,
            first_frame_target=0.25,
            chunking=Chunking(first=1, later=3, sink=1, window=21),
            chunked=True,
        ),
        # Clips, in two passes a step.
        *(
            Subject(
                name=name,
                family=FamilyName.WAN,
                kind="wan",
                pipeline="WanPipeline",
                frames=49 if shots == 1 else 25,
                fps=12,
                steps=6,
                width=128,
                height=64,
                wall_target=wall_target,
                first_frame_target=1.0 / shots,
                guidance_scale=4.0,
                negative_prompt="blurred, low quality",
                shots=shots,
            )
            for name, shots, wall_target in (("Wan, one shot", 1, 1.0), ("Wan, three shots", 3, 0.95))
        ),
    )
}
