"""What is known of one VideoModel of the pool on this server."""

import asyncio
from dataclasses import dataclass, field
from math import inf

from videojob.api.replica import LoadedModel, ModelState
from videojob.api.videomodel import VideoModel, VideoModelSpec
from videojob.runner.model_state import Facts, State

MESSAGE_LIMIT = 512
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
FAILED_SECONDS = 300.0
"""For so long a model that did not load, and made room, does not count as one that a job could have loaded."""


@dataclass(frozen=True)
class Failure:
    """Why a model did not load. It counts until other weights or another spec may load, and for a while only."""

    message: str
    digest: str
    spec: VideoModelSpec
    until: float


@dataclass
class Pause:
    """The time until something that failed is tried again. Times are seconds of a monotonic clock."""

    until: float = 0.0
    failures: int = 0

    def rest(self, now: float, seconds: float) -> None:
        """Try again after so long."""
        self.until = now + seconds

    def lengthen(self, now: float) -> None:
        """Try again, after twice as long as the time before."""
        self.rest(now, min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self.failures, 10)))
        self.failures += 1

    def end(self) -> None:
        """Try at once."""
        self.until, self.failures = 0.0, 0


@dataclass
class Served:
    """A VideoModel of the pool: what it is on the server, what is wanted of it, and what is known of its weights."""

    model: VideoModel
    state: State = State.UNSURE
    wanted: bool = False
    """It is to be on the accelerator."""
    dropped: bool = False
    """The pool no longer has it."""
    ended: set[str] = field(default_factory=set)
    """Stages whose process has ended, by their names on the server."""
    digest: str = ""
    """Of the weights that it should have; empty while unknown."""
    weights_read: bool = False
    """They were read since the last load was begun."""
    changes: int = 0
    """Loads in a row during which the weights were changed."""
    look_at: float | None = None
    """When to look again, at the server or at the folder; None where the state was not looked at yet."""
    pause: Pause = field(default_factory=Pause)
    message: str = ""
    """Why it is not loaded yet, where that needs to be said."""
    failure: Failure | None = None
    """The last one, unless the model was loaded since."""
    jobs: int = 0
    used: float = 0.0
    task: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """Of the VideoModel."""
        return self.model.metadata.name

    @property
    def weights_bytes(self) -> int:
        """Memory that it takes when no job runs on it."""
        return self.model.spec.memory.weights_bytes

    @property
    def held_bytes(self) -> int:
        """Memory that counts as taken by it and by its jobs."""
        weights = self.weights_bytes if self.state.holds_memory else 0
        return weights + self.jobs * self.model.spec.memory.per_job_bytes

    @property
    def usable(self) -> bool:
        """Whether a job can be made with it now, as far as is known."""
        return self.state is State.RESIDENT and self.wanted and not self.ended

    def facts(self, now: float, *, room: bool) -> Facts:
        """What its next action depends on; `room` is whether its weights fit beside all else."""
        return Facts(
            wanted=self.wanted,
            dropped=self.dropped,
            digest_known=bool(self.digest),
            weights_read=self.weights_read,
            room=room,
            stage_ended=bool(self.ended),
            look_due=self.look_at is None or now >= self.look_at,
            resting=now < self.pause.until,
        )

    def due(self, now: float) -> float | None:
        """Seconds until time alone changes the facts or the report; None where it does not."""
        times = (self.look_at, self.pause.until, self.failure.until if self.failure else None)
        return min((time - now for time in times if time is not None and now < time < inf), default=None)

    def see(self, model: VideoModel) -> None:
        """The VideoModel as it is now."""
        changed, self.model = self.model.spec != model.spec, model
        if changed:
            self.turn()
            self.look_at = None if self.look_at is None else 0.0

    def turn(self) -> None:
        """Something else is wanted of it: what rested is tried at once."""
        self.pause.end()

    def become(self, state: State) -> None:
        """It is so from now on."""
        self.state, self.look_at = state, None
        if state is State.ABSENT:
            self.weights_read = False
            self.ended.clear()

    def fail(self, error: Exception, now: float) -> None:
        """It did not load, or cannot be: it is tried again after a pause."""
        self.failure = Failure(str(error)[:MESSAGE_LIMIT], self.digest, self.model.spec, now + FAILED_SECONDS)
        self.pause.lengthen(now)

    def failed(self, now: float) -> bool:
        """Whether its failure counts. Else jobs would come for one that does not load, again and again."""
        failure = self.failure
        if failure is None or (failure.digest, failure.spec) != (self.digest, self.model.spec):
            return False
        return now < failure.until

    def reported(self, now: float, memory: float) -> LoadedModel:
        """How it is, for people and for the operator, on an accelerator with so much memory."""
        state, message = self._reported(now, memory)
        uid, digest = self.model.metadata.uid, self.digest
        return LoadedModel(name=self.name, uid=uid, state=state, digest=digest, message=message)

    def _reported(self, now: float, memory: float) -> tuple[ModelState, str]:
        if self.failed(now) and self.failure is not None:
            return ModelState.FAILED, self.failure.message
        if self.usable:
            return ModelState.READY, ""
        looked = self.state is State.ABSENT and self.look_at is not None
        if self.wanted or not (self.digest or looked):
            return ModelState.LOADING, self.message[:MESSAGE_LIMIT]
        needed = self.weights_bytes + self.model.spec.memory.per_job_bytes
        return ModelState.UNLOADED, (
            "" if needed <= memory else f"It needs {needed} bytes with a job; there are {memory}."
        )
