"""What the attempts of a replica have in common."""

from dataclasses import dataclass

from videojob.api.gpupool import Endpoint, GPUPool
from videojob.kube.client import KubeClient
from videojob.runner.accounting import Checkpoints
from videojob.runner.buffers import FrameBuffers
from videojob.runner.clock import Clock
from videojob.runner.hold import Permission
from videojob.runner.judge import Judge
from videojob.runner.metrics import RunnerMetrics
from videojob.runner.pool_store import PoolStore
from videojob.runner.serving import Serving
from videojob.runner.slots import Slots
from videojob.runner.triton import Triton


@dataclass(frozen=True)
class Services:
    """What every attempt on a replica uses."""

    kube: KubeClient
    clock: Clock
    metrics: RunnerMetrics
    triton: Triton
    serving: Serving
    judge: Judge
    buffers: FrameBuffers
    store: PoolStore
    checkpoints: Checkpoints
    accelerators: int
    ready_seconds: float
    """How long an attempt waits for its model before it is handed back."""
    permission: Permission
    """What the runner may do now: by how it stands with its Lease."""


@dataclass(frozen=True)
class Site(Services):
    """The pool's place, and what attempts use there."""

    pool: GPUPool
    endpoint: Endpoint
    slots: Slots
