"""How an attempt ends without a video, where neither the job was lost nor somebody asked for it."""

from videojob.api.reasons import REASONS, Reason, of_chunk_error
from videojob.triton.contract import ChunkError, ErrorCode

USELESS = frozenset({ErrorCode.PROMPT_TOO_LONG, ErrorCode.INVALID_REQUEST, ErrorCode.SUPERSEDED})
"""What fails again however often it is tried."""
_REPLICAS_FAULT = {
    ErrorCode.SUPERSEDED: Reason.TRITON_UNAVAILABLE,
    ErrorCode.STAGE_GONE: Reason.TRITON_UNAVAILABLE,
    ErrorCode.ACCELERATOR_FAILED: Reason.ACCELERATOR_FAILED,
}
"""What the job has no part in, with the reason for which it is handed back."""


class HandBackError(Exception):
    """The job cannot go on here, through no fault of its own: it waits for a replica again, with this reason."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class AttemptFailedError(Exception):
    """The attempt failed through the job itself; `final` where every other attempt would fail likewise."""

    def __init__(self, reason: Reason, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.final = final


def outcome(error: ChunkError) -> HandBackError | AttemptFailedError:
    """How the attempt ends on a unit that was not made, however often it was tried."""
    if error.reason in _REPLICAS_FAULT:
        return HandBackError(_REPLICAS_FAULT[error.reason], error.sentence)
    reason = of_chunk_error(error.reason)
    return AttemptFailedError(reason, error.sentence, final=REASONS[reason].final)
