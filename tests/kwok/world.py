"""Helpers for tests of managed pools: make pools, read their pods, and wait for conditions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dev.control_plane import NAMESPACE
from tests.controller.world import World, until
from tests.kwok.nodes import ACCELERATOR
from tests.kwok.pod_runners import PodRunners
from videojob.api.conditions import Condition
from videojob.api.gpupool import GPUPool
from videojob.api.replica import POOL_LABEL, pod_labels
from videojob.api.videojob import Phase, VideoJob
from videojob.kube.client import DEPLOYMENTS, GPU_POOLS, LEASES, PODS, VIDEO_JOBS, VIDEO_MODELS, Json, KubeError

CHUNK_SECONDS = 0.2
SCALING: Json = {"maxReplicas": 3, "targetSeconds": 2, "stabilizationSeconds": 1, "idleSeconds": 2}
LONG = [{"prompt": "A private prompt.", "seconds": 45}]
"""The shots of a job of 61 chunks, which takes some twelve seconds."""
PATIENCE = 60.0


@dataclass
class PoolWorld(World):
    """A namespace, a model and pools of a test's own; `pod_runners` are those of all pods."""

    pod_runners: PodRunners = None  # type: ignore[assignment]

    def named(self, name: str) -> str:
        """The name, made unique to this test."""
        return f"{name}-{self.namespace}"

    async def models(self) -> None:
        await super().models()
        await self.client.merge_patch(VIDEO_MODELS, self.model, {"spec": {"estimate": {"chunkSeconds": CHUNK_SECONDS}}})

    async def managed_pool(self, name: str = "p", accelerator: str = "h200", **spec: Any) -> str:
        """Make a managed pool; returns its full name."""
        template = {
            "image": "example.com/triton:1",
            "runnerImage": "example.com/runner:1",
            "nodeSelector": {ACCELERATOR: accelerator},
            **spec.pop("template", {}),
        }
        body = {
            "accelerator": accelerator,
            "models": [self.model],
            "store": {"url": self.store.as_uri()},
            "scaling": SCALING | spec.pop("scaling", {}),
            "template": template,
            **spec,
        }
        await self._create(GPU_POOLS, "GPUPool", self.named(name), body)
        return self.named(name)

    async def change_pool(self, pool: str, **spec: Any) -> None:
        """Change fields of a pool's spec."""
        await self.client.merge_patch(GPU_POOLS, pool, {"spec": spec})

    async def scale(self, pool: str, replicas: int) -> None:
        """Scale by the scale subresource, as `kubectl scale` and an HPA do."""
        self.cluster.kubectl("scale", "gpupool", pool, f"--replicas={replicas}")

    async def read_pool(self, pool: str) -> GPUPool:
        return GPUPool.model_validate(await self.client.get(GPU_POOLS, pool))

    async def deployment(self, pool: str) -> Json | None:
        """The pool's Deployment, if there is one."""
        try:
            return await self.client.get(DEPLOYMENTS, f"pool-{pool}", NAMESPACE)
        except KubeError as error:
            if error.not_found:
                return None
            raise

    async def pods(self, pool: str) -> dict[str, Json]:
        """The pool's pods that are not being deleted, by name."""
        selector = ",".join(f"{key}={value}" for key, value in pod_labels(pool).items())
        found = (await self.client.list(PODS, NAMESPACE, labelSelector=selector))["items"]
        return {pod["metadata"]["name"]: pod for pod in found if "deletionTimestamp" not in pod["metadata"]}

    async def leases(self, pool: str) -> set[str]:
        """The replicas of a pool that have a Lease."""
        found = (await self.client.list(LEASES, NAMESPACE, labelSelector=f"{POOL_LABEL}={pool}"))["items"]
        return {lease["metadata"]["ownerReferences"][0]["name"] for lease in found}

    async def until_pool(self, pool: str, holds: Callable[[GPUPool], bool], what: str) -> GPUPool:
        last: list[GPUPool] = []

        async def look() -> GPUPool | None:
            last[:] = [await self.read_pool(pool)]
            return last[0] if holds(last[0]) else None

        try:
            return await until(look, what, PATIENCE)
        except AssertionError as error:
            raise AssertionError(f"{error}; the status is {last and last[0].status!r}") from self.pod_runners.error

    async def until_condition(self, pool: str, type_: str, reason: str) -> GPUPool:
        """Wait until that condition of the pool has that reason."""

        def holds(found: GPUPool) -> bool:
            return any((one.type, one.reason) == (type_, reason) for one in found.status.conditions)

        return await self.until_pool(pool, holds, f"condition {type_} of {pool} is {reason}")

    async def until_size(self, pool: str, ready: int) -> GPUPool:
        """Wait until as many replicas are desired, exist, and are ready."""
        return await self.until_pool(
            pool,
            lambda found: (
                (found.status.desired_replicas, found.status.replicas, found.status.ready_replicas)
                == (ready, ready, ready)
                # A pool that was just made has none of it in its status.
                and found.status.observed_generation == found.metadata.generation
            ),
            f"{pool} has {ready} replicas",
        )

    async def until_running(self, name: str = "job") -> VideoJob:
        """Wait until a replica holds the job and has committed chunks."""
        return await self.becomes(
            lambda job: (
                job.status.assignment is not None and bool(job.status.progress and job.status.progress.chunks_done)
            ),
            f"{name} runs",
            name,
        )

    async def until_succeeded(self, *names: str) -> dict[str, VideoJob]:
        """Wait until all of these jobs, or all that there are, have succeeded."""

        async def look() -> dict[str, VideoJob] | None:
            found = (await self.client.list(VIDEO_JOBS, self.namespace))["items"]
            jobs = {one["metadata"]["name"]: VideoJob.model_validate(one) for one in found}
            chosen = {name: job for name, job in jobs.items() if not names or name in names}
            return chosen if all(job.status.phase is Phase.SUCCEEDED for job in chosen.values()) else None

        return await until(look, "all jobs have succeeded", PATIENCE)

    def made_once(self, *jobs: VideoJob) -> None:
        """Every chunk of these jobs was made once, in order, and no attempt of them counts as failed."""
        for job in jobs:
            resolved = job.status.resolved
            assert resolved is not None
            assert self.pod_runners.chunks_of(job.metadata.uid) == list(range(resolved.chunks))
            assert job.status.failures == 0
        assert self.pod_runners.clashes == []

    async def leave(self) -> None:
        for pool in (await self.client.list(GPU_POOLS))["items"]:
            if pool["metadata"]["name"].endswith(self.namespace):
                await self._delete(GPU_POOLS, pool["metadata"]["name"])
        await super().leave()

        async def gone() -> bool | None:
            found = (await self.client.list(PODS, NAMESPACE))["items"]
            ours = [pod for pod in found if pod["metadata"]["labels"].get(POOL_LABEL, "").endswith(self.namespace)]
            return None if ours else True

        await until(gone, "the pods of deleted pools are gone", PATIENCE)


def condition(pool: GPUPool, type_: str) -> Condition:
    """A condition of the pool."""
    return next(one for one in pool.status.conditions if one.type == type_)


def replica_of(job: VideoJob) -> str:
    """The replica that holds the job."""
    assert job.status.assignment is not None
    return job.status.assignment.replica
