"""How decisions become API writes. Every write is safe to repeat: a fence makes it fail where it no longer applies."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from videojob.api import FINALIZER
from videojob.api.conditions import ConditionType, Reason
from videojob.api.patch import Operation, attempt_fence, status_patch, version_fence
from videojob.api.transitions import (
    assigned,
    cancelled,
    failed,
    released,
    resumed,
    suspended,
    waiting,
)
from videojob.api.videojob import VideoJobStatus
from videojob.controller.cache import Cache, JobRecord
from videojob.controller.events import Recorder
from videojob.controller.files import Files
from videojob.controller.metrics import OperatorMetrics
from videojob.kube.client import VIDEO_JOBS, Json, KubeClient, KubeError
from videojob.planner.decisions import (
    Adopt,
    Assign,
    Cancel,
    Decision,
    Expire,
    Fail,
    Purge,
    Reclaim,
    Release,
    Resume,
    Suspend,
    Wait,
)
from videojob.planner.snapshot import Job

logger = logging.getLogger(__name__)

QUIET_WAITS = frozenset({Reason.QUEUED, Reason.BACKING_OFF, Reason.QUEUE_STOPPED, Reason.POOL_STARTING})
"""Waits that are as they should be: worth a condition, not an Event."""


class Effects:
    """Carries decisions out, one call each."""

    def __init__(
        self,
        client: KubeClient,
        cache: Cache,
        files: Files,
        recorder: Recorder,
        metrics: OperatorMetrics,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._cache = cache
        self._files = files
        self._recorder = recorder
        self._metrics = metrics
        self._now = now

    async def apply(self, decision: Decision, record: JobRecord) -> None:
        """Carry a decision out on the job as it was when the decision was made.

        Raises:
            KubeError: the API server refused; a conflict means that the job is not what it was.
            StoreFailure: the job's files cannot be removed now.
        """
        match decision:
            case Assign():
                await self._assign(decision, record)
            case Release(reason=reason):
                await self._release(record, reason)
            case Reclaim():
                await self._reclaim(record)
            case Purge(keep_output=keep_output):
                await self._purge(record, keep_output)
            case Adopt():
                await self._patch(record.job, _add_finalizer(record))
            case Expire():
                await self._expire(record)
            case Wait() | Suspend() | Resume() | Cancel() | Fail():
                await self._change(decision, record)

    async def _assign(self, decision: Assign, record: JobRecord) -> None:
        job, now = record.job, self._now()
        version = str(record.version)
        if not job.finalizer:
            version = (await self._patch(job, _add_finalizer(record)))["metadata"]["resourceVersion"]
        old = record.read_status()
        new = assigned(
            old,
            pool=decision.replica.pool,
            replica=decision.replica.name,
            resolved=decision.resolved,
            store_uri=decision.store_uri,
            now=now,
            generation=record.generation,
        )
        await self._patch(job, status_patch(version_fence(version), old, new), "status")
        self._metrics.assigned(job, decision.replica.pool, now)
        logger.debug("%s attempt %d -> %s/%s", _name(job), new.attempts, *decision.replica)
        if new.attempts > 1:
            message = f"Attempt {new.attempts}: replica {decision.replica.name} of pool {decision.replica.pool}."
            self._say(job, "Normal", Reason.ASSIGNED, message)

    async def _release(self, record: JobRecord, reason: Reason) -> None:
        job = record.job
        operation: Operation = {"op": "add", "path": "/status/assignment/release", "value": reason.value}
        await self._patch(job, [*_holder_fence(job), operation], "status")
        logger.info("%s attempt %d: asked its replica to release it (%s)", _name(job), job.attempts, reason.value)

    async def _reclaim(self, record: JobRecord) -> None:
        job, old, now = record.job, record.read_status(), self._now()
        if job.assignment is None:
            return
        lost = f"Replica {job.assignment.replica} of pool {job.assignment.pool} has no live heartbeat any more"
        if job.assignment.release is not None:
            new = released(old, reason=job.assignment.release, now=now, generation=record.generation)
        else:
            message = f"{lost}; finished chunks are kept."
            new = waiting(old, reason=Reason.REPLICA_LOST, message=message, now=now, generation=record.generation)
        await self._patch(job, status_patch(_holder_fence(job), old, new), "status")
        self._metrics.reassignments.labels(job.assignment.pool, new.reason).inc()
        self._say(job, "Warning", Reason.REPLICA_LOST, f"{lost}.")

    async def _change(self, decision: Wait | Suspend | Resume | Cancel | Fail, record: JobRecord) -> None:
        job, old, now, generation = record.job, record.read_status(), self._now(), record.generation
        match decision:
            case Wait(reason=reason, message=message):
                new = waiting(old, reason=reason, message=message, now=now, generation=generation)
                type_ = "Warning"
            case Suspend():
                new, type_ = suspended(old, now=now, generation=generation), "Normal"
            case Resume():
                new, type_ = resumed(old, now=now, generation=generation), "Normal"
            case Cancel():
                new, type_ = cancelled(old, now=now, generation=generation), "Normal"
            case Fail(reason=reason, message=message):
                new = failed(old, reason=reason, message=message, now=now, generation=generation)
                type_ = "Warning"
        await self._patch(job, status_patch(version_fence(str(record.version)), old, new), "status")
        if not (isinstance(decision, Wait) and decision.reason in QUIET_WAITS):
            self._say(job, "Warning" if type_ == "Warning" else "Normal", *_told(new))

    async def _purge(self, record: JobRecord, keep_output: bool) -> None:
        job = record.job
        orphan = await self._files.remove(job, keep_output)
        if orphan is not None:
            self._say(job, "Warning", "FilesOrphaned", orphan)
        index = record.finalizers.index(FINALIZER)
        await self._patch(
            job,
            [
                {"op": "test", "path": f"/metadata/finalizers/{index}", "value": FINALIZER},
                {"op": "remove", "path": f"/metadata/finalizers/{index}"},
            ],
        )
        logger.info("%s: its files were removed, and it is gone", _name(job))

    async def _expire(self, record: JobRecord) -> None:
        job = record.job
        try:
            await self._client.delete(VIDEO_JOBS, job.name, job.namespace, {"uid": job.uid})
        except KubeError as error:
            if not error.not_found:
                raise
        logger.info("%s: deleted, %s s after its end", _name(job), job.ttl_seconds_after_finished)

    async def _patch(self, job: Job, operations: list[Operation], subresource: str | None = None) -> Json:
        answer = await self._client.json_patch(VIDEO_JOBS, job.name, operations, job.namespace, subresource)
        self._cache.apply(VIDEO_JOBS, answer, insert=False)
        return answer

    def _say(self, job: Job, type_: str, reason: str, message: str) -> None:
        logger.info("%s attempt %d: %s: %s", _name(job), job.attempts, reason, message)
        self._recorder.post(job, "Warning" if type_ == "Warning" else "Normal", reason, message)


def _told(status: VideoJobStatus) -> tuple[str, str]:
    """Reason and message of the condition that says what the status came to."""
    types = (ConditionType.FAILED, ConditionType.CANCELLED, ConditionType.SUSPENDED, ConditionType.ASSIGNED)
    by_type = {condition.type: condition for condition in status.conditions}
    for type_ in types:
        condition = by_type.get(type_)
        if condition is not None and (condition.status == "True" or condition.reason == status.reason):
            return condition.reason, condition.message
    return status.reason or "", ""


def _holder_fence(job: Job) -> list[Operation]:
    if job.assignment is None:
        raise ValueError(f"{_name(job)} is not assigned")
    return attempt_fence(job.attempts, job.assignment.pool, job.assignment.replica)


def _add_finalizer(record: JobRecord) -> list[Operation]:
    fence = version_fence(str(record.version))
    if record.finalizers:
        return [*fence, {"op": "add", "path": "/metadata/finalizers/-", "value": FINALIZER}]
    return [*fence, {"op": "add", "path": "/metadata/finalizers", "value": [FINALIZER]}]


def _name(job: Job) -> str:
    return f"{job.namespace}/{job.name}"
