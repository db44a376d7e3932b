"""Carries decisions out: a bounded number at a time, one per job, with retries.

The decisions of a plan wait in a backlog that the next plan replaces, so nothing stale is ever begun, and the backlog
is never longer than one plan. While a write is under way its job counts as busy: planning assumes that it will succeed,
and decides nothing else on that job. A conflict means that the job is not what it was: it is read again and planned
anew.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from videojob.api.videojob import Assignment, Phase
from videojob.controller.cache import Cache, JobRecord
from videojob.controller.files import StoreFailure
from videojob.kube.client import VIDEO_JOBS, KubeClient, KubeError
from videojob.planner.decisions import Assign, Decision, Purge
from videojob.planner.snapshot import Job

logger = logging.getLogger(__name__)

TRIES = 4
REST_SECONDS = 1.0
REST_CAP_SECONDS = 60.0


class Applies(Protocol):
    """What carries one decision out."""

    def apply(self, decision: Decision, record: JobRecord) -> Coroutine[object, object, None]:
        """Carry a decision out. Raises KubeError or StoreFailure."""


@dataclass
class _Lane:
    """Work of one kind: removing files takes long, and must not hold up anything else."""

    free: int
    backlog: deque[Decision] = field(default_factory=deque)


class Writer:
    """The only place from which jobs are written."""

    def __init__(
        self,
        client: KubeClient,
        cache: Cache,
        effects: Applies,
        *,
        leading: Callable[[], bool],
        finished: Callable[[], None],
        monotonic: Callable[[], float],
        writes: int,
        purges: int,
    ) -> None:
        """At most `writes` writes and `purges` purges are under way; `finished` is called when the backlog ran dry."""
        self._client = client
        self._cache = cache
        self._effects = effects
        self._leading = leading
        self._finished = finished
        self._monotonic = monotonic
        self._writes = _Lane(writes)
        self._purges = _Lane(purges)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._rests: dict[str, tuple[float, float]] = {}
        self._draining = False

    @property
    def busy(self) -> frozenset[str]:
        """Jobs that are not to be decided on: a write is under way, or one has failed a moment ago."""
        now = self._monotonic()
        return frozenset(self._tasks) | {uid for uid, (until, _) in self._rests.items() if until > now}

    def next_rest(self) -> float | None:
        """Seconds until a job whose write failed is tried again."""
        now = self._monotonic()
        return min((until - now for until, _ in self._rests.values() if until > now), default=None)

    def offer(self, decisions: tuple[Decision, ...]) -> None:
        """Carry these out, in this order; what was offered before and has not begun is dropped."""
        self._writes.backlog = deque(decision for decision in decisions if not isinstance(decision, Purge))
        self._purges.backlog = deque(decision for decision in decisions if isinstance(decision, Purge))
        self._begin()

    def stop(self) -> None:
        """Give up what is under way, at once: this operator does not lead any more."""
        self._clear()
        for task in self._tasks.values():
            task.cancel()

    async def drain(self, seconds: float) -> None:
        """Begin nothing more, ever, and wait for what is under way."""
        self._draining = True
        self._clear()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=seconds)
        self.stop()

    def _clear(self) -> None:
        self._writes.backlog.clear()
        self._purges.backlog.clear()

    def _begin(self) -> None:
        if self._draining:
            return
        for lane in (self._writes, self._purges):
            while lane.free > 0 and lane.backlog and self._leading():
                decision = lane.backlog.popleft()
                record = self._cache.job(decision.uid)
                if record is None or decision.uid in self._tasks:
                    continue
                lane.free -= 1
                self._cache.assumed[decision.uid] = assume(record.job, decision)
                task = asyncio.create_task(self._carry_out(decision, record), name=f"write {decision.uid}")
                self._tasks[decision.uid] = task
                task.add_done_callback(partial(self._ended, decision.uid, lane))

    def _ended(self, uid: str, lane: _Lane, _: asyncio.Task[None]) -> None:
        lane.free += 1
        del self._tasks[uid]
        self._cache.assumed.pop(uid, None)
        self._begin()
        if not self._writes.backlog:
            self._finished()

    async def _carry_out(self, decision: Decision, record: JobRecord) -> None:
        name = f"{record.job.namespace}/{record.job.name}"
        try:
            await self._retrying()(self._effects.apply, decision, record)
            self._rests.pop(decision.uid, None)
        except KubeError as error:
            await self._refused(error, record, name)
        except StoreFailure as error:
            logger.warning("%s: its files cannot be removed yet: %s", name, error)
            self._rest(decision.uid)
        except Exception:
            logger.exception("%s: a decision was not carried out: %s", name, type(decision).__name__)
            self._rest(decision.uid)

    async def _refused(self, error: KubeError, record: JobRecord, name: str) -> None:
        uid = record.job.uid
        if error.not_found:
            self._cache.forget_job(uid)
            return
        if not error.conflict:
            logger.error("%s: the API server refused a write: %s", name, error)
            self._rest(uid)
            return
        try:
            found = await self._client.get(VIDEO_JOBS, record.job.name, record.job.namespace)
        except KubeError as again:
            if again.not_found:
                self._cache.forget_job(uid)
            else:
                self._rest(uid)
            return
        if found["metadata"]["uid"] != uid:
            self._cache.forget_job(uid)
        elif int(found["metadata"]["resourceVersion"]) <= record.version:
            # Nothing changed, and yet the write was refused as invalid: trying at once would only be refused again.
            logger.error("%s: the API server refused a write: %s", name, error)
            self._rest(uid)
        self._cache.apply(VIDEO_JOBS, found)

    def _rest(self, uid: str) -> None:
        """Leave the job alone for a while, for longer each time."""
        now = self._monotonic()
        self._rests = {key: rest for key, rest in self._rests.items() if rest[0] > now - REST_CAP_SECONDS}
        _, last = self._rests.get(uid, (0.0, REST_SECONDS / 2))
        seconds = min(last * 2, REST_CAP_SECONDS)
        self._rests[uid] = (now + seconds, seconds)

    def _retrying(self) -> AsyncRetrying:
        return AsyncRetrying(
            retry=retry_if_exception(
                lambda error: isinstance(error, KubeError) and error.transient and self._leading()
            ),
            wait=_wait,
            stop=stop_after_attempt(TRIES),
            reraise=True,
        )


_backoff = wait_random_exponential(multiplier=0.1, max=5)


def _wait(state: RetryCallState) -> float:
    """Exponential with jitter, or longer where the API server asks for it."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, KubeError) else None
    return max(_backoff(state), asked or 0.0)


def assume(job: Job, decision: Decision) -> Job:
    """The job once the decision is carried out, as far as it matters to other jobs: the room that it takes."""
    if not isinstance(decision, Assign):
        return job
    assignment = Assignment(pool=decision.replica.pool, replica=decision.replica.name)
    return replace(job, assignment=assignment, phase=Phase.ASSIGNED)
