"""The videos that the data plane is measured with, one a family."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from videojob.families import FAMILIES, Chunking, FamilyName, Plan, Shot, Video


@dataclass(frozen=True)
class Subject:
    """A video of one shot, and what makes it."""

    family: FamilyName
    kind: str
    """Of `dev.tiny_model`."""
    pipeline: str
    """The class of diffusers."""
    frames: int
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

    @cached_property
    def plan(self) -> Plan:
        """How it is cut."""
        return FAMILIES[self.family].plan(self.chunking, Video((Shot(self.frames),), self.fps, self.steps))

    def arguments(self) -> dict[str, Any]:
        """What the pipeline is called with, beside size, steps and noise."""
        found: dict[str, Any] = {"guidance_scale": self.guidance_scale}
        if self.negative_prompt is not None:
            found["negative_prompt"] = self.negative_prompt
        if self.chunked:
            found["chunk_partition"] = [len(unit.latents) for unit in self.plan.units]
        return found

    def job(self) -> dict[str, Any]:
        """What a VideoJob asks for, beside model, prompt and seed."""
        size = {"width": self.width, "height": self.height, "steps": self.steps, "fps": self.fps}
        found = {**size, "guidanceScale": self.guidance_scale}
        return found if self.negative_prompt is None else {**found, "negativePrompt": self.negative_prompt}


SUBJECTS: Final[Mapping[FamilyName, Subject]] = {
    subject.family: subject
    for subject in (
        # Eight chunks. Sink and window hold the whole video, because the bare loop remembers all of it.
        Subject(
            family=FamilyName.ANYFLOW_FAR,
            kind="anyflow-far",
            pipeline="AnyFlowFARPipeline",
            frames=85,
            fps=17,
            steps=3,
            width=128,
            height=64,
            wall_target=0.8,
            first_frame_target=0.3,
            chunking=Chunking(first=1, later=3, sink=1, window=21),
            chunked=True,
        ),
        # One clip, in two passes a step.
        Subject(
            family=FamilyName.WAN,
            kind="wan",
            pipeline="WanPipeline",
            frames=49,
            fps=12,
            steps=6,
            width=128,
            height=64,
            wall_target=1.0,
            first_frame_target=1.0,
            guidance_scale=4.0,
            negative_prompt="blurred, low quality",
        ),
    )
}
