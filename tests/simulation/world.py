"""A cluster in virtual time: the server, the network, the stores, and the machines that start processes again."""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from tests.simulation.api_server import ApiServer, Refused
from tests.simulation.clock import Clock
from tests.simulation.deployments import Deployments
from tests.simulation.ledger import Ledger
from tests.simulation.model_store import Stores
from tests.simulation.network import Network
from tests.simulation.process import Process
from tests.simulation.runners import NAMESPACE, Runner
from tests.simulation.scenario import FPS, MODEL, TEAM, PoolPlan, Scenario
from videojob.api import API_VERSION
from videojob.controller.operator import OperatorError
from videojob.kube.client import CONFIG_MAPS, GPU_POOLS, LEASES, VIDEO_JOBS, VIDEO_MODELS, VIDEO_QUEUES, ResourceKind

Json = dict[str, Any]
OperatorMain = Callable[["World", Process, Clock, random.Random], Coroutine[Any, Any, None]]
"""The code of one operator process."""
KIND_OF = {kind.plural: kind for kind in (VIDEO_JOBS, VIDEO_QUEUES, VIDEO_MODELS, GPU_POOLS, LEASES, CONFIG_MAPS)}
_NAMES = {"videojobs": "VideoJob", "videoqueues": "VideoQueue", "videomodels": "VideoModel", "gpupools": "GPUPool"}
RESTART_SECONDS = 2.0


class World:
    """One history's cluster."""

    def __init__(
        self, scenario: Scenario, loop: asyncio.AbstractEventLoop, operator: OperatorMain, events: int
    ) -> None:
        self.scenario = scenario
        self.loop = loop
        self.clock = Clock(loop)
        self.rng = random.Random(scenario.seed + 1)
        self.stores = Stores(self.clock, random.Random(scenario.seed + 2))
        self.ledger = Ledger(
            self.clock, self.stores, lambda: self.outages, lambda: self.network.known, deque(maxlen=events)
        )
        self.outages: list[tuple[float, float]] = []
        self.server = ApiServer(self.clock, self.ledger.changed)
        self.network = Network(self.server, self.clock, random.Random(scenario.seed + 3), trace=lambda text: None)
        self.operators: dict[str, Process] = {}
        self.runners: dict[str, Runner] = {}
        """By replica: the newest process."""
        self.deployments = Deployments(self)
        self.claims: dict[str, str] = {}
        """By replica: the process that has claimed its Triton."""
        self.retired: list[Process] = []
        """Processes that were replaced, and may still run."""
        self._operator = operator
        self._starts = 0
        self._down_until: dict[str, float] = {}
        self._began: dict[str, float] = {}

    def create(self, kind: ResourceKind, name: str, spec: Json, namespace: str = "") -> None:
        """Somebody creates an object."""
        body: Json = {"metadata": {"name": name}, "spec": spec}
        if kind.plural in _NAMES:
            body |= {"apiVersion": API_VERSION, "kind": _NAMES[kind.plural]}
        self.server.handle("POST", kind.path(namespace or None), {}, body, "application/json", "user")

    def patch(self, kind: ResourceKind, name: str, body: Json, namespace: str = "") -> None:
        """Somebody changes an object."""
        path = kind.path(namespace or None, name)
        self.server.handle("PATCH", path, {}, body, "application/merge-patch+json", "user")

    def set_up(self) -> None:
        """All that is there before the first process: a queue, a model, pools."""
        self.create(VIDEO_QUEUES, "default", {}, TEAM)
        self.create(VIDEO_MODELS, MODEL, MODEL_SPEC)
        for pool in self.scenario.pools:
            bucket = self.stores.open(pool.store)
            bucket.failing = self.scenario.store_failing
            spec = {"accelerator": "cpu", "models": [MODEL], "store": {"url": pool.store}, **_replicas(pool)}
            self.create(GPU_POOLS, pool.name, spec)

    async def keep_running(self) -> None:
        """Start every process, and start those again that died, a while later."""
        while True:
            now = self.clock.monotonic()
            for number in range(self.scenario.operators):
                name = f"operator-{number}"
                process = self.operators.get(name)
                if (process is None or process.dead) and now >= self._down_until.get(name, 0.0):
                    self._check(process)
                    self._start_operator(name)
            for pool in self.scenario.pools:
                for replica in pool.endpoints:
                    self.keep_runner(pool.name, replica)
            self.deployments.step()
            await asyncio.sleep(RESTART_SECONDS)

    def keep_runner(self, pool: str, replica: str) -> None:
        """Start a runner, or start it again a while after it died."""
        key = f"{pool}.{replica}"
        runner = self.runners.get(key)
        if (runner is None or runner.process.dead) and self.clock.monotonic() >= self._down_until.get(key, 0.0):
            self._check(runner.process if runner is not None else None)
            self.start_runner(pool, replica)

    def replica(self, whom: str) -> str:
        """The replica by that name of a pool and an endpoint; of a managed pool, one of the pods. Raises Refused."""
        pool, endpoint = whom.split(".")
        plan = next(one for one in self.scenario.pools if one.name == pool)
        if plan.managed is None:
            return whom
        pods = self.deployments.running(pool)
        if not pods:
            raise Refused(404, f"pool {pool} has no pod that runs")
        return f"{pool}.{pods[int(endpoint.removeprefix('r')) % len(pods)]}"

    def _check(self, process: Process | None) -> None:
        """Nobody may end by itself, but an operator that cannot read the cluster when it starts."""
        if process is None or process.ended is None:
            return
        began = self._began[process.name]
        excused = isinstance(process.ended, OperatorError) and began < self.scenario.calm_at
        if not excused:
            self.ledger.fault(f"{process.name} has ended: {process.ended!r}")

    def check_processes(self) -> None:
        """Nobody may have ended by itself."""
        for process in [*self.operators.values(), *(runner.process for runner in self.runners.values())]:
            self._check(process)

    def _start_operator(self, name: str) -> None:
        self._starts += 1
        process = self.operators[name] = Process(name)
        self._began[name] = self.clock.monotonic()
        clock = Clock(self.loop, self.scenario.skews.get(name, 0.0))
        rng = random.Random(self.scenario.seed * 1000 + self._starts)
        process.start(self._operator(self, process, clock, rng))
        self.ledger.note(f"{name} starts")

    def start_runner(self, pool: str, replica: str) -> None:
        """A new runner process for a replica; one that runs is left to its own."""
        self._starts += 1
        key = f"{pool}.{replica}"
        if key in self.runners and not self.runners[key].process.dead:
            self.retired.append(self.runners[key].process)
        process = Process(f"runner-{key}.{self._starts}")
        runner = self.runners[key] = Runner(
            pool,
            replica,
            process,
            self.network,
            self.stores,
            self.clock,
            self.scenario.settings,
            self.ledger.chunk_begun,
            self.claims,
        )
        process.start(runner.run())
        self.ledger.note(f"{process.name} starts")

    def kill(self, name: str, process: Process, seconds: float) -> None:
        """Kill a process; another one takes its place after so long at the earliest."""
        self._down_until[name] = self.clock.monotonic() + seconds
        process.kill()

    def leader(self) -> str:
        """The name of the operator that holds the Lease, by its Lease."""
        for lease in self.server.objects("leases"):
            if lease["metadata"]["name"] == "videojob-operator":
                holder = (lease.get("spec") or {}).get("holderIdentity", "")
                if holder.split("_")[0] in self.operators:
                    return str(holder.split("_")[0])
        return "operator-0"

    def calm(self) -> None:
        """Nothing goes wrong from now on; what stands still goes on."""
        self.network.calm()
        self.stores.calm()
        self._down_until.clear()
        for process in [*self.operators.values(), *self.retired, *(one.process for one in self.runners.values())]:
            process.resume()


MODEL_SPEC: Json = {
    "family": "AnyFlowFAR",
    "source": {"directory": "/models/none"},
    "precision": "float32",
    "chunk": {"firstLatents": 1, "latents": 1},
    "memory": {"weightsBytes": 0, "perJobBytes": 0},
    "defaults": {"fps": FPS},
}


def endpoints(sizes: dict[str, int]) -> list[Json]:
    """The endpoints of a pool."""
    return [{"name": name, "url": "127.0.0.1:1", "maxJobs": jobs} for name, jobs in sizes.items()]


def _replicas(pool: PoolPlan) -> Json:
    """What a pool's spec says of its replicas."""
    own = pool.managed
    if own is None:
        return {"endpoints": endpoints(pool.endpoints)}
    return {
        "jobsPerReplica": own.jobs,
        "scaling": {
            "minReplicas": own.least,
            "maxReplicas": own.most,
            "targetSeconds": own.target_seconds,
            "stabilizationSeconds": own.stabilization_seconds,
            "idleSeconds": own.idle_seconds,
        },
        "template": {"image": "triton", "runnerImage": "runner"},
    }


SYSTEM = NAMESPACE
