"""How an attempt ends without a video, where neither the job was lost nor somebody asked for it."""

from videojob.api.reasons import Reason


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
