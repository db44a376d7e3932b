"""Names, inputs and outputs of the models on a Triton server, for the models, the runner and the tests.

A unit is denoised by one request and decoded by others, a piece each, so its checkpoint is there, and can be stored,
before its frames are, and the first frames before the last. No tensor has a shape or a type that depends on the family:
what only a family understands travels as the bytes of a safetensors file.

| model        | input        | output      | dtype, shape       | meaning                                             |
|--------------|--------------|-------------|--------------------|-----------------------------------------------------|
| each         | REQUEST      |             | BYTES [1]          | JSON of `videojob.triton.wire`: a unit and its      |
|              |              |             |                    | settings, or an end                                 |
| each         |              | REPORT      | BYTES [1]          | JSON of `videojob.triton.wire.Report`               |
| text_encoder | IMAGES       |             | BYTES [n]          | where the shot begins with an image, and ends with  |
|              |              |             |                    | one: each uint8 `[H, W, 3]`, RGB, of the video's    |
|              |              |             |                    | size, one byte after the other                      |
| text_encoder |              | CONDITIONS  | BYTES [1]          | what prompts and images mean to the denoiser        |
| denoiser     | CONDITIONS   |             | BYTES [1]          | with START, and whenever they change                |
| denoiser     | PAST         |             | BYTES [n]          | with START: checkpoints of the units in `past` of   |
|              |              |             |                    | REQUEST, among them all of `needs`                  |
| denoiser     | PARTIAL      |             | BYTES [1]          | with START, where REQUEST has `resume`: the unit as |
|              |              |             |                    | it was after so many of its steps                   |
| denoiser     |              | CHECKPOINT  | BYTES [1]          | what later units and the decoder need of the unit;  |
|              |              |             |                    | of one that was paused what its next step needs,    |
|              |              |             |                    | and REPORT has `step`, how many were made           |
| vae_decoder  | CHECKPOINT   |             | BYTES [1]          | of the unit: with START, and with its first frames  |
| vae_decoder  | PAST         |             | BYTES [n]          | with START: likewise, among them all of `decode`    |
| vae_decoder  |              | FRAMES      | UINT8 [F, H, W, 3] | the wanted frames that come out of the unit, RGB    |

The ensemble `<model>.video_chunk` does all of it for one unit, for clients other than the runner: REQUEST, IMAGES,
PAST and PARTIAL in, FRAMES, CHECKPOINT and a report of each stage out.

Requests of a job carry one correlation id (`sequence_id`, the string `<job uid>-<attempt>`) and must reach a model in
order: send them on one gRPC stream a model, because unary calls may overtake each other. The first request of a
sequence on a model has `sequence_start`, the last `sequence_end`. An end, with START and END, frees the sequence on the
model, whatever state it is in, does no work and answers without contents. It is needed after an error and after a
mark; on an ensemble it reaches every model, which the END of a unit that fails in the first one does not.

A mark stops a sequence within a step: after `cancel` the denoiser answers the error Cancelled, after `pause` with a
partial checkpoint, where it has made a step of the unit and not the last one. Then the sequence is unknown, so what is
in flight behind is refused as OutOfSequence. To the decoder, and so to an ensemble, either is a cancel.
"""

import re
from enum import StrEnum
from typing import Final, Literal

REQUEST: Final = "REQUEST"
IMAGES: Final = "IMAGES"
PAST: Final = "PAST"
PARTIAL: Final = "PARTIAL"
CONDITIONS: Final = "CONDITIONS"
CHECKPOINT: Final = "CHECKPOINT"
FRAMES: Final = "FRAMES"
REPORT: Final = "REPORT"

# What the ensemble calls the reports.
TEXT_REPORT: Final = "TEXT_REPORT"
DENOISE_REPORT: Final = "DENOISE_REPORT"
DECODE_REPORT: Final = "DECODE_REPORT"

# The control model, in and out.
CORRELATION_ID: Final = "CORRELATION_ID"
MARK: Final = "MARK"
RUN: Final = "RUN"
CLAIM: Final = "CLAIM"
IDENTITY: Final = "IDENTITY"
STAGE: Final = "STAGE"
HUNG: Final = "HUNG"
ACCEPTED: Final = "ACCEPTED"
PROGRESS: Final = "PROGRESS"

CLAIM_PARAMETER: Final = "videojob_claim"
"""Parameter of every request to the stages: the number of its runner's claim; 0 where it is missing."""
RUN_PARAMETER: Final = "videojob_run"
"""Parameter of every request to the stages: which run of its correlation id it is of, as RUN of a mark; 0 where it is
missing."""

CONTROL_MODEL: Final = "control"
"""What is asked of a server beside its work; one per server. Each request does one thing, by its inputs:

| inputs                              | what is done, and whether it was is what ACCEPTED says                         |
|-------------------------------------|--------------------------------------------------------------------------------|
| CORRELATION_ID BYTES [1]            | the sequence is marked as one that is to stop: MARK BYTES [1] is `cancel`, as  |
|                                     | where it is missing, or `pause`; RUN INT64 [1] is the run that it is for, with |
|                                     | those before, or for any where it is missing                                   |
| CLAIM INT64 [1], IDENTITY BYTES [1] | the server is claimed for a runner, unless one with a higher claim is there    |
| STAGE BYTES [1]                     | nothing; PROGRESS is the note of the stage of that name on the server, JSON of |
|                                     | `videojob.triton.progress.Progress`, or empty where there is none              |
| STAGE, HUNG BYTES [1]               | the stage's process is ended if its note still is HUNG: see `StageGoneError`   |

Outputs: ACCEPTED BOOL [1], CLAIM INT64 [1], the claim in force, and PROGRESS BYTES [1].
"""


class Mark(StrEnum):
    """How a sequence is to stop."""

    CANCEL = "cancel"
    """Nothing of the unit that is being made is wanted."""
    PAUSE = "pause"
    """The unit goes on elsewhere, or later, from the step that it has come to."""


Stage = Literal["text_encoder", "denoiser", "vae_decoder", "video_chunk"]
STAGES: Final[tuple[Stage, ...]] = ("text_encoder", "denoiser", "vae_decoder", "video_chunk")
"""The Triton models of one VideoModel. Load and unload `video_chunk` alone (with unload_dependents): Triton loads an
ensemble's steps with it, at once, and would load them a second time if they were loaded before."""

SEQUENCE_STAGES: Final[tuple[Stage, ...]] = ("vae_decoder", "denoiser")
"""The stages that keep a sequence, in the order in which it is ended: the denoiser forgets the mark with it."""

Precision = Literal["float32", "bfloat16", "float16"]
WeightFormat = Literal["int8", "float8"]


def model_name(video_model: str, stage: Stage) -> str:
    """Name on the server of one stage of a VideoModel, for example `tiny.denoiser`."""
    return f"{video_model}.{stage}"


class ErrorCode(StrEnum):
    """Why a chunk was not made."""

    PROMPT_TOO_LONG = "PromptTooLong"
    CANCELLED = "Cancelled"
    OUT_OF_SEQUENCE = "OutOfSequence"
    OUT_OF_MEMORY = "OutOfMemory"
    INVALID_REQUEST = "InvalidRequest"
    MODEL_FAILED = "ModelFailed"
    SUPERSEDED = "Superseded"
    STAGE_GONE = "StageGone"
    ACCELERATOR_FAILED = "AcceleratorFailed"


class ChunkError(Exception):
    """A chunk that was not made: `reason` for programs, `sentence` for people, `<reason>: <sentence>` on the wire."""

    def __init__(self, reason: ErrorCode, sentence: str) -> None:
        super().__init__(f"{reason}: {sentence}")
        self.reason = reason
        self.sentence = sentence


class StageGoneError(ChunkError):
    """The process of a stage has ended. Triton starts no other by itself, and still reports the stage as ready.

    Also where the stage has told why it ends: with AcceleratorFailed, a moment after it.
    """

    def __init__(self, model: str, reason: ErrorCode = ErrorCode.STAGE_GONE, sentence: str = "") -> None:
        """`model` is the stage's name on the server."""
        super().__init__(reason, sentence or f"The process of {model} has ended; it has to be loaded anew.")
        self.model = model


_REASON = re.compile(r"\b(" + "|".join(ErrorCode) + r"): (.+)", re.DOTALL)
# Triton's own message for a sequence it does not know: it dropped an idle one, was restarted, or the START failed.
_UNKNOWN_SEQUENCE = "must specify the START flag on the first request of the sequence"
# The python backend's message for every request to a stage whose process has ended, with the name of the instance.
_STAGE_GONE = re.compile(r"Stub process '([^']+)_\d+_\d+' is not healthy")
# What the python backend makes of an exception while a model loads: its type and message, then the stack.
_LOAD_FAILURE = re.compile(r"Internal: (?:\w+: )?(.+?)\s*\nAt:\n", re.DOTALL)


def load_failure(message: str) -> str:
    """The sentence in an error message of a model that could not be loaded, without names of exceptions and stack."""
    found = _LOAD_FAILURE.search(message)
    return found[1] if found else message.strip()


def reason_of(message: str) -> tuple[ErrorCode, str] | None:
    """ErrorCode and sentence of an error message from Triton, or None where none of the models above wrote it.

    Triton prefixes messages (`in ensemble 'tiny.video_chunk', ...`); a request of a sequence that the server does not
    know counts as OutOfSequence, because the answer to both is to start the sequence again from the last commit.
    """
    if found := _REASON.search(message):
        return ErrorCode(found[1]), found[2].strip()
    if _UNKNOWN_SEQUENCE in message:
        return ErrorCode.OUT_OF_SEQUENCE, "The server does not know this sequence; start it again from the last commit."
    return None


def chunk_error(message: str, model: str) -> ChunkError:
    """The error in a message from Triton about its `model`; ModelFailed where it is none that `reason_of` knows."""
    if gone := _STAGE_GONE.search(message):
        return StageGoneError(gone[1])
    known = reason_of(message)
    if known is None:
        return ChunkError(ErrorCode.MODEL_FAILED, message)
    return StageGoneError(model, *known) if known[0] is ErrorCode.ACCELERATOR_FAILED else ChunkError(*known)
