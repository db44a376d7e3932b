"""Shots of a `VideoJob`: as they are asked for, as they are made, and what of them there is."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from videojob.api.names import Seconds, Seed
from videojob.api.schema import Resource, rules
from videojob.families import Memory

MAX_PROMPT = 4000
MAX_SHOTS = 64


class Shot(Resource):
    """A part of the video with a prompt of its own."""

    prompt: Annotated[
        str,
        Field(
            min_length=1,
            max_length=MAX_PROMPT,
            description="Describes the shot.",
            json_schema_extra=rules((r"self.matches('\\S')", "the prompt is blank: describe what the shot shows")),
        ),
    ]
    seconds: Annotated[
        Seconds,
        Field(
            description="Length of the shot, also in quotes. It gets round(seconds x fps) frames; where the next shot "
            "keeps the memory, it ends with the nearest chunk. All shots together have at most 3600 seconds."
        ),
    ]
    memory: Annotated[
        Memory | None,
        Field(
            description="What the shot takes over: Keep goes on from all that is remembered, Refresh from the video's "
            "beginning alone, Clear from nothing. If omitted, Keep where the model can, else Clear."
        ),
    ] = None
    negative_prompt: Annotated[
        str | None, Field(max_length=MAX_PROMPT, description="In place of the job's negativePrompt.")
    ] = None
    seed: Annotated[Seed | None, Field(description="In place of the job's seed.")] = None


class ResolvedShot(Resource):
    """What is made of a shot."""

    frames: Annotated[int, Field(description="As many as it has in the end: it may end with a chunk.")]
    chunks: int
    memory: Memory
    seed: Annotated[int | None, Field(description="Where it is not the job's.")] = None


class ShotState(StrEnum):
    """How far a shot is."""

    WAITING = "Waiting"
    """None of its chunks is in the store."""
    PARTIAL = "Partial"
    READY = "Ready"
    """All are."""


class ShotProgress(Resource):
    """What of a shot is in the store."""

    chunks_done: int
    seconds_ready: float
    state: ShotState
