"""How decisions become API writes. Each is safe to repeat: a fence makes it fail where it no longer applies."""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from videojob.api.conditions import ConditionType
from videojob.api.meta import ObjectMeta
from videojob.api.patch import Operation, status_patch, version_fence
from videojob.api.reasons import QUIET, Reason
from videojob.api.transitions import (
    assigned,
    attempt_failed,
    cancelled,
    failed,
    observed,
    reclaimed,
    released,
    resumed,
    suspended,
    waiting,
)
from videojob.api.videojob import VideoJobStatus
from videojob.controller.events import EventType, Recorder
from videojob.controller.fences import fence, finalizer_added, status_of
from videojob.controller.file_effects import FileEffects, still_cut_off
from videojob.controller.files import Files
from videojob.controller.intake import Intake
from videojob.controller.leading import LeaderClient
from videojob.controller.metrics import OperatorMetrics
from videojob.controller.pool_effects import PoolEffects
from videojob.controller.stores import JobFiles
from videojob.kube.client import GPU_POOLS, VIDEO_JOBS, VIDEO_QUEUES, Json, ResourceKind
from videojob.planner.decisions import (
    Adopt,
    ApplyDeployment,
    Assign,
    Cancel,
    Cause,
    Decision,
    Drain,
    Expire,
    Fail,
    KeepReplicas,
    LeavePool,
    Observe,
    Purge,
    Reclaim,
    Release,
    Resize,
    Resume,
    SetDeletionCost,
    SetPoolStatus,
    SetQueueStatus,
    Suspend,
    Sweep,
    VerifyLeases,
    Wait,
)
from videojob.planner.facts import Job, Moment

logger = logging.getLogger(__name__)


class Effects:
    """Carries decisions out, one call each."""

    def __init__(
        self,
        intake: Intake,
        files: Files,
        stores: JobFiles,
        pools: PoolEffects,
        recorder: Recorder,
        metrics: OperatorMetrics,
        *,
        clock: Callable[[], Moment],
        patience_seconds: float,
    ) -> None:
        """A job that ends waits no longer than `patience_seconds` for its store."""
        self._intake = intake
        self._pools = pools
        self._recorder = recorder
        self._metrics = metrics
        self._clock = clock
        self._file_effects = FileEffects(files, stores, self.patch, self._post, clock, patience_seconds)

    async def apply(self, decision: Decision, api: LeaderClient) -> None:
        """Carry a decision out, on nothing but what it was made on.

        Raises:
            KubeError: the API server refused; a conflict means that the object is not what it was.
            StoreFailure: the job's files cannot be reached now.
            DeposedError: this operator does not lead any more.
        """
        match decision:
            case Assign():
                await self._assign(decision, api)
            case Release():
                await self._release(decision, api)
            case Reclaim():
                await self._reclaim(decision, api)
            case Wait() | Suspend() | Resume() | Cancel() | Fail():
                await self._change(decision, api)
            case Observe(job=job):
                old = status_of(job)
                await self.patch(api, job, status_patch(fence(job), old, observed(old, job.generation)), "status")
            case Adopt(job=job):
                await self.patch(api, job, finalizer_added(job))
            case Expire(job=job):
                await self._expire(job, api)
            case Purge() | LeavePool() | Sweep():
                await self._file_effects.apply(decision, api)
            case SetPoolStatus(pool=pool, status=status):
                await self._set_status(api, GPU_POOLS, pool.metadata, status.wire())
            case SetQueueStatus(queue=queue, status=status):
                await self._set_status(api, VIDEO_QUEUES, queue.metadata, status.wire())
            case ApplyDeployment() | Resize() | KeepReplicas() | Drain() | SetDeletionCost() | VerifyLeases():
                await self._pools.apply(decision, api)

    async def patch(
        self, api: LeaderClient, job: Job, operations: list[Operation], subresource: str | None = None
    ) -> Json:
        """Patch a job; the answer is known at once. Raises KubeError or DeposedError."""
        answer = await api.json_patch(VIDEO_JOBS, job.name, operations, job.namespace, subresource)
        self._intake.apply(VIDEO_JOBS, answer, insert=False)
        return answer

    async def _assign(self, decision: Assign, api: LeaderClient) -> None:
        job, now = decision.job, self._clock().wall
        version = str(job.version)
        if not job.finalizer:
            # Its answer differs from what was decided on by the finalizer alone: the fence moves on to it.
            version = str((await self.patch(api, job, finalizer_added(job)))["metadata"]["resourceVersion"])
        old = status_of(job)
        new = assigned(
            old,
            pool=decision.replica.pool,
            replica=decision.replica.name,
            resolved=decision.resolved,
            store_uri=decision.store_uri,
            now=now,
            generation=job.generation,
        )
        await self.patch(api, job, status_patch(version_fence(version), old, new), "status")
        self._metrics.assigned(job, decision.replica.pool, now)
        logger.debug("%s attempt %d -> %s/%s", _name(job), new.attempts, *decision.replica)
        if new.attempts > 1:
            message = f"Attempt {new.attempts}: replica {decision.replica.name} of pool {decision.replica.pool}."
            self._post(job, "Normal", Reason.ASSIGNED, message)

    async def _release(self, decision: Release, api: LeaderClient) -> None:
        job, reason = decision.job, decision.reason
        operation: Operation = {"op": "add", "path": "/status/assignment/release", "value": reason.value}
        await self.patch(api, job, [*fence(job), operation], "status")
        logger.info("%s attempt %d: its replica is asked to release it (%s)", _name(job), job.attempts, reason.value)

    async def _reclaim(self, decision: Reclaim, api: LeaderClient) -> None:
        job, now = decision.job, self._clock().wall
        if job.assignment is None:
            return
        who = f"Replica {job.assignment.replica} of pool {job.assignment.pool}"
        message = {
            Cause.LOST: f"{who} has no live heartbeat any more",
            Cause.UNCLAIMED: f"{who} lives, but does not work on the job: its log says why",
            Cause.OVERDUE: f"{who} has not given the job back within its bound ({job.assignment.release})",
        }[decision.cause]
        until = now + timedelta(seconds=decision.cut_off_seconds) if decision.cut_off_seconds else None
        old, new = status_of(job), _reclaimed(decision, f"{message}; finished chunks are kept.", until, now)
        if new.phase.finished and until is not None:
            await self._file_effects.close(job, api)
        await self.patch(api, job, status_patch(fence(job), old, new), "status")
        self._metrics.reassignments.labels(job.assignment.pool, new.reason or "").inc()
        reason = Reason.RUNNER_ERROR if decision.cause is Cause.UNCLAIMED else Reason.REPLICA_LOST
        self._post(job, "Warning", reason, f"{message}.")

    async def _change(self, decision: Wait | Suspend | Resume | Cancel | Fail, api: LeaderClient) -> None:
        job, old, now = decision.job, status_of(decision.job), self._clock().wall
        generation = job.generation
        type_: EventType = "Normal"
        match decision:
            case Wait(reason=reason, message=message, counts=counts):
                new = waiting(old, reason=reason, message=message, now=now, generation=generation)
                new = new.model_copy(update={"failures": old.failures + counts})
                type_ = "Warning"
            case Suspend():
                new = suspended(old, now=now, generation=generation)
            case Resume():
                new = resumed(old, now=now, generation=generation)
            case Cancel():
                new = cancelled(old, now=now, generation=generation)
            case Fail(reason=reason, message=message):
                new = failed(old, reason=reason, message=message, now=now, generation=generation)
                type_ = "Warning"
        if new.phase.finished and still_cut_off(job, now):
            await self._file_effects.close(job, api)
        await self.patch(api, job, status_patch(fence(job), old, new), "status")
        if not (isinstance(decision, Wait) and decision.reason in QUIET):
            self._post(job, type_, *_outcome(new))

    async def _expire(self, job: Job, api: LeaderClient) -> None:
        preconditions = {"uid": job.uid, "resourceVersion": str(job.version)}
        await api.delete(VIDEO_JOBS, job.name, job.namespace, preconditions)
        logger.info("%s: deleted, %s s after its end", _name(job), job.ttl_seconds_after_finished)

    async def _set_status(self, api: LeaderClient, kind: ResourceKind, metadata: ObjectMeta, status: Json) -> None:
        operations = [*version_fence(metadata.resource_version), {"op": "add", "path": "/status", "value": status}]
        answer = await api.json_patch(kind, metadata.name, operations, metadata.namespace or None, "status")
        self._intake.apply(kind, answer)

    def _post(self, job: Job, type_: EventType, reason: str, message: str) -> None:
        logger.info("%s attempt %d: %s: %s", _name(job), job.attempts, reason, message)
        self._recorder.post(job, type_, reason, message)


def _reclaimed(decision: Reclaim, message: str, until: datetime | None, now: datetime) -> VideoJobStatus:
    """The status of a job that is taken from its replica."""
    job, old = decision.job, status_of(decision.job)
    release = job.assignment.release if job.assignment is not None else None
    if decision.cause is Cause.LOST:
        return reclaimed(old, message=message, cut_off_until=until, now=now, generation=job.generation)
    if release is not None:
        new = released(old, reason=release, now=now, generation=job.generation)
    else:
        new = attempt_failed(old, reason=Reason.RUNNER_ERROR, message=message, now=now, generation=job.generation)
    times = [time for time in (old.cut_off_until, until) if time is not None]
    return new.model_copy(update={"cut_off_until": max(times, default=None)})


def _outcome(status: VideoJobStatus) -> tuple[str, str]:
    """Reason and message of the condition that says what the status came to."""
    types = (ConditionType.FAILED, ConditionType.CANCELLED, ConditionType.SUSPENDED, ConditionType.ASSIGNED)
    by_type = {condition.type: condition for condition in status.conditions}
    for type_ in types:
        condition = by_type.get(type_)
        if condition is not None and (condition.status == "True" or condition.reason == status.reason):
            return condition.reason, condition.message
    return status.reason or "", ""


def _name(job: Job) -> str:
    return f"{job.namespace}/{job.name}"
