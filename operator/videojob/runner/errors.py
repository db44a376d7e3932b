"""What ends an attempt without a video, where the job was not lost and nobody asked for it: one table of errors."""

from dataclasses import dataclass
from enum import Enum, auto

from videojob.api.reasons import OF_REPLICA, REASONS, Reason, of_chunk_error
from videojob.media import DiskError, MediaError
from videojob.runner.drifting import DriftedError
from videojob.runner.images import ImageRefusedError
from videojob.runner.triton import TritonGoneError, TritonRefusedError
from videojob.store import CorruptObject, StoreError
from videojob.triton.contract import ChunkError, ErrorCode


class HandBackError(Exception):
    """The job cannot go on here, through no fault of its own, with this reason."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class End(Enum):
    """What becomes of the job."""

    RETURNED = auto()
    """It waits for a replica again; no failure is counted."""
    FAILED = auto()
    """The attempt has failed."""
    FINAL = auto()
    """So would every other: the job ends."""


@dataclass(frozen=True)
class Outcome:
    """How an attempt ends, as the job's status shows it."""

    end: End
    reason: Reason
    message: str


_RESTARTED = (ChunkError, TritonGoneError, TritonRefusedError)
"""After which a sequence is worth another run, where it may go another way."""
_USELESS = frozenset({ErrorCode.PROMPT_TOO_LONG, ErrorCode.INVALID_REQUEST, ErrorCode.SUPERSEDED})
"""What fails again however often it is tried."""
_REPLICAS_FAULT = {
    ErrorCode.SUPERSEDED: Reason.TRITON_UNAVAILABLE,
    ErrorCode.STAGE_GONE: Reason.TRITON_UNAVAILABLE,
    ErrorCode.ACCELERATOR_FAILED: Reason.ACCELERATOR_FAILED,
}
"""What the job has no part in, with the reason for which it is handed back."""
_ENDS = (
    # Where the job itself is the cause, the replica still serves others.
    (TritonGoneError, End.RETURNED, Reason.TRITON_UNAVAILABLE),
    (TritonRefusedError, End.RETURNED, Reason.TRITON_UNAVAILABLE),
    (DriftedError, End.FINAL, Reason.DRIFTED_TOO_FAR),
    (CorruptObject, End.FAILED, Reason.STORE_CORRUPT),
    (StoreError, End.RETURNED, Reason.STORE_UNAVAILABLE),
    (DiskError, End.RETURNED, Reason.DISK_UNAVAILABLE),
    (MediaError, End.FAILED, Reason.RUNNER_ERROR),
)
"""What each error means for the job. The first that fits counts."""


def restartable(error: BaseException) -> bool:
    """Whether the sequence is to be run again after this error, a bounded number of times."""
    return isinstance(error, _RESTARTED) and getattr(error, "reason", None) not in _USELESS


def outcome(error: Exception, replica: str) -> Outcome | None:
    """How the attempt on that replica ends with this error; None where it is none that the runner knows."""
    if isinstance(error, HandBackError):
        return Outcome(End.RETURNED, error.reason, str(error))
    if isinstance(error, ImageRefusedError):
        return Outcome(End.FINAL, error.reason, str(error))
    if isinstance(error, ChunkError):
        return _of_chunk(error)
    found = next(((end, reason) for kind, end, reason in _ENDS if isinstance(error, kind)), None)
    if found is None:
        return None
    return Outcome(*found, f"Replica {replica}: {error}" if found[1] in OF_REPLICA else str(error))


def _of_chunk(error: ChunkError) -> Outcome:
    """How it ends on a unit that was not made, however often it was tried."""
    if error.reason in _REPLICAS_FAULT:
        return Outcome(End.RETURNED, _REPLICAS_FAULT[error.reason], error.sentence)
    reason = of_chunk_error(error.reason)
    return Outcome(End.FINAL if REASONS[reason].final else End.FAILED, reason, error.sentence)
