"""Carries decisions out: a bounded number at a time in each lane, one per target.

The decisions of a plan wait in backlogs that the next plan replaces, so nothing stale is begun, and a backlog is never
longer than the decisions that there can be. While a write is under way its target counts as busy: planning assumes that
it will succeed, and decides nothing else on it. A conflict means that the object is not what it was: it is read again
and planned anew.

Nobody waits for what is slow elsewhere: lanes are independent, and within a lane whatever belongs to one pool or store
takes only a part of it.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol

from videojob.api.reasons import Reason
from videojob.controller.intake import Intake
from videojob.controller.leading import DeposedError, LeaderClient, Leadership, Requests
from videojob.controller.rests import FREE_CONFLICTS, Rests
from videojob.controller.stores import StoreFailure
from videojob.kube.answers import identified
from videojob.kube.client import GPU_POOLS, VIDEO_JOBS, VIDEO_QUEUES, KubeError, ResourceKind
from videojob.planner.book import Book
from videojob.planner.decisions import (
    ApplyDeployment,
    Cancel,
    Decision,
    Drain,
    Fail,
    KeepReplicas,
    Lane,
    Reclaim,
    Resize,
    SetDeletionCost,
    SetPoolStatus,
    SetQueueStatus,
    Target,
    VerifyLeases,
    target,
)

logger = logging.getLogger(__name__)

_ENDING = (Reason.CANCELLED, Reason.DEADLINE_EXCEEDED)
"""Releases that end the job."""


class Applies(Protocol):
    """What carries one decision out."""

    def apply(self, decision: Decision, api: LeaderClient) -> Coroutine[object, object, None]:
        """Carry a decision out. Raises KubeError, StoreFailure or DeposedError."""


class Counts(Protocol):
    """A counter by what went wrong."""

    def __call__(self, decision: Decision, outcome: str) -> None:
        """A decision was not carried out: conflict, refused, store or error."""


@dataclass
class _Lane:
    size: int
    share: int
    """Of the size, for whatever belongs to one pool or store."""
    busy: int = 0
    owners: Counter[str] = field(default_factory=Counter)
    backlog: deque[Decision] = field(default_factory=deque)


class Writer:
    """The only place from which decisions become writes."""

    def __init__(
        self,
        requests: Requests,
        book: Book,
        intake: Intake,
        effects: Applies,
        leadership: Leadership,
        rests: Rests,
        *,
        finished: Callable[[], None],
        failed: Counts,
        lanes: Mapping[Lane, int],
        status_seconds: float,
    ) -> None:
        """`finished` is called when a lane's backlog ran dry, `failed` with what was not carried out.

        Of each lane, so many decisions are carried out at a time; `status_seconds` lie between two statuses of one
        pool or queue.
        """
        self._requests = requests
        self._book = book
        self._intake = intake
        self._effects = effects
        self._leadership = leadership
        self._rests = rests
        self._finished = finished
        self._failed = failed
        self._status_seconds = status_seconds
        self._lanes = {lane: _Lane(size, _share(lane, size)) for lane, size in lanes.items()}
        self._tasks: dict[Target, asyncio.Task[None]] = {}
        self._draining = False

    @property
    def busy(self) -> int:
        """Decisions that are being carried out."""
        return len(self._tasks)

    def offer(self, decisions: Iterable[Decision], *, keep: Collection[Lane] = ()) -> None:
        """Carry these out, in this order; what was offered before and has not begun is dropped.

        The lanes in `keep` were not planned for anew: what waits there stays, after what is offered now.
        """
        offered: dict[Lane, dict[Target, Decision]] = {lane: {} for lane in self._lanes}
        for decision in decisions:
            offered[lane_of(decision)].setdefault(target(decision), decision)
        for name, lane in self._lanes.items():
            if name in keep:
                for decision in lane.backlog:
                    offered[name].setdefault(target(decision), decision)
            lane.backlog = deque(offered[name].values())
            self._begin(lane)

    def stop(self) -> None:
        """Give up what is under way, at once: this operator does not lead any more."""
        self._clear()
        for task in self._tasks.values():
            task.cancel()

    async def drain(self, seconds: float) -> None:
        """Begin nothing more, ever, and wait so long for what is under way."""
        self._draining = True
        self._clear()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=seconds)
        self.stop()

    def _clear(self) -> None:
        for lane in self._lanes.values():
            lane.backlog.clear()

    def _begin(self, lane: _Lane) -> None:
        while lane.busy < lane.size and not self._draining and self._leadership.leading:
            decision = self._next(lane)
            if decision is None:
                return
            lane.busy += 1
            lane.owners[owner_of(decision)] += 1
            self._book.begin(decision)
            key = target(decision)
            task = asyncio.create_task(self._carry_out(decision), name=f"write {' '.join(key)}")
            self._tasks[key] = task
            task.add_done_callback(partial(self._ended, decision, lane))

    def _next(self, lane: _Lane) -> Decision | None:
        """The first decision of the backlog that may begin.

        One whose target is busy, or that is not right any more, is dropped: whatever has come of it is planned anew.
        """
        held_up: list[Decision] = []
        found = None
        while lane.backlog and found is None:
            decision = lane.backlog.popleft()
            if self._book.busy(target(decision)) or not self._book.stands(decision):
                continue
            owner = owner_of(decision)
            if owner and lane.owners[owner] >= lane.share:
                held_up.append(decision)
            else:
                found = decision
        lane.backlog.extendleft(reversed(held_up))
        return found

    def _ended(self, decision: Decision, lane: _Lane, _: asyncio.Task[None]) -> None:
        lane.busy -= 1
        owner = owner_of(decision)
        lane.owners[owner] -= 1
        if not lane.owners[owner]:
            del lane.owners[owner]
        del self._tasks[target(decision)]
        self._book.end(decision)
        self._begin(lane)
        if not lane.backlog:
            self._finished()

    async def _carry_out(self, decision: Decision) -> None:
        key = target(decision)
        api = LeaderClient(self._requests, self._leadership)
        try:
            await self._effects.apply(decision, api)
            self._rests.succeeded(key)
            if isinstance(decision, SetPoolStatus | SetQueueStatus):
                self._rests.pause(key, self._status_seconds)
        except KubeError as error:
            await self._refused(error, decision, api)
        except StoreFailure as error:
            logger.warning("%s: its files cannot be reached: %s", _name(decision), error)
            self._failed(decision, "store")
            self._rests.failed(key)
        except DeposedError:
            logger.info("%s: not carried out, because this operator does not lead any more", _name(decision))
        except Exception:
            logger.exception("%s: a decision was not carried out: %s", _name(decision), type(decision).__name__)
            self._failed(decision, "error")
            self._rests.failed(key)

    async def _refused(self, error: KubeError, decision: Decision, api: LeaderClient) -> None:
        """The API server has not taken a write."""
        key = target(decision)
        if not error.conflict and not error.not_found:
            logger.error("%s: the API server refused a write: %s", _name(decision), error)
            self._failed(decision, "refused")
            self._rests.failed(key)
            return
        self._failed(decision, "conflict")
        try:
            news = await self._read_again(decision, api)
        except DeposedError:
            return
        except KubeError as again:
            logger.warning("%s: it cannot be read again: %s", _name(decision), again)
            self._rests.failed(key)
            return
        if not news:
            # Nothing that can be read has changed, and yet it was refused: trying at once would only be refused again.
            logger.error("%s: the API server refused a write: %s", _name(decision), error)
        self._rests.failed(key, free=FREE_CONFLICTS if news else 0)

    async def _read_again(self, decision: Decision, api: LeaderClient) -> bool:
        """Put the object as it is now into the book; whether it is not what was decided on, and can be read."""
        found = _object_of(decision)
        if found is None:
            return False
        kind, uid = found.kind, found.uid
        try:
            body = await api.get(kind, found.name, found.namespace)
        except KubeError as error:
            if not error.not_found:
                raise
            self._intake.forget(kind, uid)
            return True
        if not identified(body):
            return False
        if body["metadata"]["uid"] != uid:
            self._intake.forget(kind, uid)
        self._intake.apply(kind, body)
        return self._version(kind, uid) != found.version and (kind.plural, uid) not in self._book.unreadable

    def _version(self, kind: ResourceKind, uid: str) -> int | None:
        """The newest version of an object that could be read."""
        return self._book.version(uid) if kind is VIDEO_JOBS else self._intake.known(kind).get(uid)


def lane_of(decision: Decision) -> Lane:
    """The lane of a decision. What ends a job whose runner may still add files asks the store first."""
    match decision:
        case Cancel(job=job) | Fail(job=job) if job.cut_off_until is not None:
            return Lane.FILES
        case Reclaim(job=job) if job.assignment is not None and job.assignment.release in _ENDING:
            return Lane.FILES
        case _:
            return decision.lane


def owner_of(decision: Decision) -> str:
    """The pool whose trouble may make the decision slow; empty where that is nobody's alone."""
    match decision:
        case ApplyDeployment(pool=pool) | Resize(pool=pool) | KeepReplicas(pool=pool):
            return pool.metadata.name
        case Drain(replica=replica) | SetDeletionCost(replica=replica):
            return replica.pool
        case VerifyLeases() | SetPoolStatus() | SetQueueStatus():
            return ""
        case _:
            return decision.job.pool or "" if lane_of(decision) is Lane.FILES else ""


def _share(lane: Lane, size: int) -> int:
    """A pool's writes come one after the other; a store takes half of the lane for files."""
    return 1 if lane is Lane.POOLS else max(1, size // 2)


class _Object(NamedTuple):
    """What a decision is fenced by, as it was decided on."""

    kind: ResourceKind
    name: str
    namespace: str | None
    uid: str
    version: int


def _object_of(decision: Decision) -> _Object | None:
    """What is to be read again where the write is refused."""
    match decision:
        case SetPoolStatus(pool=pool):
            data = pool.metadata
            return _Object(GPU_POOLS, data.name, None, data.uid, int(data.resource_version))
        case SetQueueStatus(queue=queue):
            data = queue.metadata
            return _Object(VIDEO_QUEUES, data.name, data.namespace, data.uid, int(data.resource_version))
        case ApplyDeployment() | Resize() | KeepReplicas() | Drain() | SetDeletionCost() | VerifyLeases():
            return None
        case _:
            job = decision.job
            return _Object(VIDEO_JOBS, job.name, job.namespace, job.uid, job.version)


def _name(decision: Decision) -> str:
    found = _object_of(decision)
    if found is None:
        return " ".join(target(decision))
    return "/".join(part for part in (found.namespace, found.name) if part)
