"""The chart's release on the cluster with real pods, and what tests do with it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dev.cluster import local
from dev.cluster.cluster import NODE, RealCluster
from dev.control_plane import NAMESPACE, wait_until
from videojob.api.conditions import ConditionType, find
from videojob.api.gpupool import GPUPool
from videojob.api.replica import pod_labels
from videojob.api.videojob import Phase, VideoJob

Json = dict[str, Any]

POOL, QUEUE, MODEL = "local", "default", "tiny-anyflow"
SECONDS, STEPS = 6, 24
"""Of a video that takes long enough for something to happen meanwhile."""
QUICK = {"minReplicas": 0, "maxReplicas": 1, "targetSeconds": 30, "stabilizationSeconds": 10, "idleSeconds": 10}
"""Scaling of a pool that soon scales to zero."""
PATIENCE = 240.0
"""Seconds after which a condition that a test waits for counts as never coming."""
POOL_PODS = ",".join(f"{label}={value}" for label, value in pod_labels(POOL).items())


def ignore_progress(_: str) -> None:
    """Discard a progress message."""


@dataclass(frozen=True)
class Release:
    """videojob in a cluster, with a namespace for jobs."""

    real: RealCluster
    namespace: str

    def submit(self, *names: str, seconds: float = SECONDS, steps: int = STEPS, **spec: Any) -> None:
        """Apply jobs, all of the same video."""
        shots = [{"prompt": "a red fox trots through fresh snow", "seconds": seconds}]
        for name in names:
            self.real.cluster.apply(
                {
                    "apiVersion": "videojob.dev/v1alpha1",
                    "kind": "VideoJob",
                    "metadata": {"name": name, "namespace": self.namespace},
                    "spec": {"model": MODEL, "shots": shots, "seed": 7, "steps": steps, **spec},
                }
            )

    def job(self, name: str) -> VideoJob:
        """A job as it is."""
        return VideoJob.model_validate(self.real.get("videojob", name, "-n", self.namespace))

    def pool(self, name: str = POOL) -> GPUPool:
        """A pool as it is."""
        return GPUPool.model_validate(self.real.get("gpupool", name))

    def change_pool(self, name: str = POOL, **spec: Any) -> None:
        """Merge into a pool's spec."""
        self.real.kubectl("patch", "gpupool", name, "--type=merge", "--patch", json.dumps({"spec": spec}))

    def finished(self, name: str) -> VideoJob:
        """The job, once it has ended."""
        self.until(lambda: self.job(name).status.phase.finished, f"{name} does not end", lambda: self.described(name))
        return self.job(name)

    def video(self, name: str) -> str:
        """sha256 of the job's video, once it has succeeded."""
        job = self.finished(name)
        assert job.status.phase is Phase.SUCCEEDED, self.described(name)
        assert job.status.output is not None
        return job.status.output.sha256

    def until_chunks(self, name: str, count: int) -> VideoJob:
        """The job, once so many of its chunks are committed, and before its end."""

        def there() -> bool:
            job = self.job(name)
            assert not job.status.phase.finished, f"{name} has ended before anything could happen to it"
            return job.status.progress is not None and job.status.progress.chunks_done >= count

        self.until(there, f"{name} does not get to chunk {count}", lambda: self.described(name))
        return self.job(name)

    def until_condition(self, type_: ConditionType, reason: str, pool: str = POOL) -> str:
        """The message of a pool's condition, once it has that reason."""

        def there() -> bool:
            condition = find(self.pool(pool).status.conditions, type_)
            return condition is not None and condition.reason == reason

        self.until(there, f"{type_} of {pool} does not become {reason}", lambda: str(self.pool(pool).status.conditions))
        condition = find(self.pool(pool).status.conditions, type_)
        return condition.message if condition is not None else ""

    def pods(self, selector: str = POOL_PODS) -> list[Json]:
        """Pods of the system's namespace that are not on their way out."""
        found = self.real.get("pods", "-n", NAMESPACE, "-l", selector)["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def names(self, selector: str = POOL_PODS) -> set[str]:
        """Names of these pods."""
        return {pod["metadata"]["name"] for pod in self.pods(selector)}

    def holder(self, name: str) -> str:
        """The pod that holds a job."""
        assignment = self.job(name).status.assignment
        assert assignment is not None, self.described(name)
        return assignment.replica

    def until_empty(self) -> None:
        """Wait until the pool has no replica."""
        self.until(lambda: not self.pool_pods_left(), "The pool does not go to zero", lambda: str(self.pool().status))

    def pool_pods_left(self) -> list[Json]:
        """All pods of the pool, those on their way out as well."""
        found: list[Json] = self.real.get("pods", "-n", NAMESPACE, "-l", POOL_PODS)["items"]
        return found

    def described(self, name: str) -> str:
        """The job's status as JSON, for the message of a failed wait."""
        status = self.job(name).status
        return f"{name}: {status.model_dump_json(exclude_none=True, exclude={'resolved'})}"

    def until(self, holds: Any, otherwise: str, why: Any = lambda: "") -> None:
        """Wait until the condition holds; fails with the description of what there was instead."""
        try:
            wait_until(holds, otherwise, PATIENCE)
        except Exception as error:
            raise AssertionError(f"{error} {why()}") from error

    @contextmanager
    def cordoned(self) -> Iterator[None]:
        """The node is cordoned within the block."""
        self.real.kubectl("cordon", NODE)
        try:
            yield
        finally:
            self.real.kubectl("uncordon", NODE)

    def install(self, *options: str) -> None:
        """Install the chart, or upgrade to it."""
        local.install(self.real, ignore_progress, *options)
