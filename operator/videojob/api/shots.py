"""Shots of a `VideoJob`: as they are asked for, as they are made, and what of them there is."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from videojob.api.names import Seconds, Seed, sentence
from videojob.api.schema import Resource, rules
from videojob.families import Memory

MAX_PROMPT = 4000
MAX_SHOTS = 64
MAX_INLINE = -(-(256 << 10) // 3) * 4
"""Characters, of 256 KiB in base64, of all images that are in a job: what is in a job is in every list of jobs."""
_IMAGE_RULES = rules(
    (
        "has(self.store) != has(self.inline)",
        "an image is either an object in the pool's store (store) or in the job (inline): write one of the two",
    ),
)
_STORE_KEY = r"^inputs(/[A-Za-z0-9_][A-Za-z0-9._-]*)+$"
StoreKey = Annotated[
    str,
    Field(
        max_length=512,
        pattern=_STORE_KEY,
        json_schema_extra=sentence(
            _STORE_KEY, "this is an object of the job's namespace in the pool's store, such as inputs/fox.png"
        ),
    ),
]


class ShotImage(Resource):
    """A picture, PNG or JPEG: in the pool's store, or in the job itself."""

    store: Annotated[
        StoreKey | None, Field(description="Key of an object below the job's namespace in the pool's store.")
    ] = None
    inline: Annotated[
        str | None,
        Field(
            max_length=MAX_INLINE,
            description="The file as `base64` prints it. All images in a job together have at most 256 KiB.",
        ),
    ] = None


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
    image: Annotated[
        ShotImage | None,
        Field(
            json_schema_extra=_IMAGE_RULES,
            description="The shot's first frame, where the model begins with one. It is scaled, without distortion, to "
            "cover the frame, and cut at the edges.",
        ),
    ] = None
    last_image: Annotated[
        ShotImage | None,
        Field(json_schema_extra=_IMAGE_RULES, description="Likewise the shot's last frame."),
    ] = None

    @property
    def images(self) -> tuple[ShotImage, ...]:
        """The first frame and the last one, as far as they are given."""
        return tuple(image for image in (self.image, self.last_image) if image is not None)


SHOT_RULES = rules(("!has(self.lastImage) || has(self.image)", "lastImage comes with image: write that as well"))
_INLINE = "(has(s.{0}) && has(s.{0}.inline) ? s.{0}.inline.size() : 0)"
SHOTS_RULES = rules(
    (
        "!has(self[0].memory) || self[0].memory == 'Clear'",
        "there is nothing before the first shot that it could keep: leave its memory out",
    ),
    (
        f"self.map(s, {_INLINE.format('image')} + {_INLINE.format('lastImage')}).sum() <= {MAX_INLINE}",
        "the images in the job have more than 256 KiB in all: put them into the pool's store, and write image.store in "
        "place of image.inline",
    ),
)


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
