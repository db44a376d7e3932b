"""Managed pools: one Deployment each, with as many replicas as the planner wants.

On the way down a replica is drained before it goes: its Lease is annotated, its runner hands its jobs back, its pod
gets the lowest deletion cost, and only then the number is lowered. All of that is read from the cluster at every turn,
so a new leader goes on where the last one stopped.
"""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus

from videojob.api.conditions import MESSAGE_LIMIT
from videojob.api.gpupool import GPUPool, LastScaling, ScalingMode
from videojob.api.replica import DRAIN_ANNOTATION, lease_name
from videojob.controller.cache import Cache
from videojob.controller.metrics import OperatorMetrics
from videojob.controller.workloads import FIELD_MANAGER, Deployed, Workloads
from videojob.kube.client import DEPLOYMENTS, LEASES, PODS, Json, KubeClient, KubeError, ResourceKind
from videojob.planner.demand import Demand, demands
from videojob.planner.estimate import Estimates
from videojob.planner.removal import SCALE_DOWN, Candidate, candidates_of, deletion_costs, victims
from videojob.planner.scaling import History, Replicas, ScalingDecision, ScalingReason, scale
from videojob.planner.snapshot import Job, Replica, ReplicaKey, Snapshot, Workload, held_jobs
from videojob.planner.summary import PoolScaling
from videojob.workload.deployment import NoImageError, PodDefaults, deployment, deployment_name
from videojob.workload.pod import DELETION_COST

logger = logging.getLogger(__name__)

SCALER = "videojob-scaler"
"""Field manager that keeps the number of replicas from the operator's last word until somebody else's first."""
REFUSED_SECONDS = 30.0
"""Pause before a Deployment that was refused is applied again."""
COLD_START_WEIGHT = 0.3
"""Share of the latest cold start in the pool's estimate."""


class _DeposedError(Exception):
    """Another operator leads now."""


@dataclass
class _State:
    """What is remembered of a pool between turns."""

    managed: bool
    history: History = field(default_factory=History)
    demand: Demand = field(default_factory=Demand)
    decision: ScalingDecision | None = None
    last: LastScaling | None = None
    cold_start: float | None = None
    applied: str = ""
    """The Deployment as it was last applied."""
    generation: int = 0
    """The Deployment's, after that."""
    refused: str = ""
    refused_at: float = 0.0
    refused_generation: int = 0
    """The pool's. Its resource version would not do: it changes with every status."""


class Pools:
    """Keeps every pool's Deployment as it should be."""

    def __init__(
        self,
        client: KubeClient,
        cache: Cache,
        workloads: Workloads,
        pod_defaults: PodDefaults,
        metrics: OperatorMetrics,
        snapshot: Callable[[], Snapshot],
        *,
        leading: Callable[[], bool],
        monotonic: Callable[[], float],
        pause_seconds: float,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._cache = cache
        self._workloads = workloads
        self._pod_defaults = pod_defaults
        self._metrics = metrics
        self._snapshot = snapshot
        self._leading = leading
        self._monotonic = monotonic
        self._pause_seconds = pause_seconds
        self._now = now
        self._states: dict[str, _State] = {}
        self.leaving: set[ReplicaKey] = set()
        """Replicas that were chosen to go: they get no job from that moment on, not only once their Lease says so."""
        self._estimates: Estimates | None = None

    async def run(self) -> None:
        """Look after the pools, until cancelled."""
        while True:
            await asyncio.sleep(self._pause_seconds)
            await self.turn()

    async def turn(self) -> None:
        """Look at every pool once, and do what can be done now."""
        if not self._leading():
            # Whoever leads writes; one that takes over starts from what it finds in the cluster.
            self._states.clear()
            self.leaving.clear()
            return
        snapshot = self._snapshot()
        asked = demands(snapshot, self._known(), self._now())
        held = held_jobs(snapshot.jobs)
        self.leaving &= snapshot.pods.keys()
        for name in self._states.keys() - snapshot.pools.keys():
            del self._states[name]
        for name, pool in snapshot.pools.items():
            self._state(pool).demand = asked[name]
        for name, pool in snapshot.pools.items():
            if pool.spec.managed:
                try:
                    await self._tend(pool, self._states[name], snapshot, held)
                except KubeError as error:
                    logger.warning("GPUPool %s was not looked after: %s", name, error)
                except _DeposedError:
                    return

    def workloads(self) -> dict[str, Workload]:
        """Every pool's Deployment, for a snapshot."""
        found = {name: Workload(deployed.wanted) for name, deployed in self._workloads.deployments.items()}
        for name, state in self._states.items():
            if state.refused:
                found[name] = Workload(found[name].wanted if name in found else 0, state.refused)
        return found

    def scalings(self) -> dict[str, PoolScaling]:
        """What the pools' statuses are to say of scaling; a managed pool is left out until it was decided on."""
        return {
            name: self._scaling(name, state)
            for name, state in self._states.items()
            if state.decision is not None or not state.managed
        }

    def cold_started(self, pool: str, seconds: float) -> None:
        """A pod of the pool took so long to become ready."""
        self._metrics.cold_start_seconds.labels(pool).observe(seconds)
        state = self._states.get(pool)
        if state is not None:
            old = state.cold_start
            state.cold_start = seconds if old is None else old + COLD_START_WEIGHT * (seconds - old)

    def progressed(self, old: Job, new: Job, sharing: int) -> None:
        """A job has committed more chunks, while so many jobs, itself included, were on its replica."""
        model = self._cache.models.get(new.model)
        if model is None or new.resolved is None or new.assignment is None:
            return
        self._estimates = self._known().observe(
            new.assignment.pool,
            model,
            new.resolved,
            new.chunks_done - old.chunks_done,
            new.running_seconds - old.running_seconds,
            sharing,
        )

    def _known(self) -> Estimates:
        if self._estimates is None:
            self._estimates = Estimates.restored(self._cache.pools.values())
        return self._estimates

    def _state(self, pool: GPUPool) -> _State:
        state = self._states.get(pool.metadata.name)
        if state is None:
            status = pool.status
            state = _State(managed=pool.spec.managed, last=status.last_scaling, cold_start=status.cold_start_seconds)
            self._states[pool.metadata.name] = state
            self._metrics.pool_seen(pool.metadata.name)
        return state

    async def _tend(self, pool: GPUPool, state: _State, snapshot: Snapshot, held: Counter[ReplicaKey]) -> None:
        deployed = self._workloads.deployed(pool.metadata.name)
        current = deployed.wanted if deployed else 0
        candidates = candidates_of(pool.metadata.name, snapshot, held)
        if pool.spec.scaling.mode is ScalingMode.EXTERNAL and pool.spec.replicas is None:
            await self._leave_to_others(pool, state, snapshot, deployed, candidates)
            return
        decision = self._decide(pool, state, current, candidates)
        state.decision, state.history = decision, decision.history
        await self._apply(pool, state, snapshot, deployed, max(decision.wanted, current))
        # Also where none is to go: a pod that has drained may still be there after the number was lowered for it.
        gone = await self._drain(pool, candidates, snapshot, len(candidates) - decision.wanted)
        if decision.wanted >= current:
            return
        # By the pods that there are: one that has drained may still be seen after the number was lowered for it, and
        # one that was never made, as where a quota refuses it, is not waited for.
        left = max(decision.wanted, len(candidates) - gone)
        if left < current:
            await self._price(pool, candidates, snapshot)
            await self._apply(pool, state, snapshot, self._workloads.deployed(pool.metadata.name), left)

    async def _leave_to_others(
        self,
        pool: GPUPool,
        state: _State,
        snapshot: Snapshot,
        deployed: Deployed | None,
        candidates: list[Candidate],
    ) -> None:
        """An HPA or KEDA scales the Deployment itself; whichever pod goes drains as it ends."""
        name, current = pool.metadata.name, deployed.wanted if deployed else 0
        message = f"Whoever scales Deployment {deployment_name(name)} decides."
        state.decision, state.history = (
            ScalingDecision(current, ScalingReason.EXTERNAL, message, History(), None),
            History(),
        )
        await self._drain(pool, candidates, snapshot, 0)
        await self._price(pool, candidates, snapshot)
        if deployed is None:
            await self._apply(pool, state, snapshot, deployed, pool.spec.scaling.min_replicas)
            return
        if deployed.owned:
            # A field that nobody owns any more falls back to its default, which is 1 replica.
            body = {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": deployment_name(name)},
                "spec": {"replicas": current},
            }
            self._check_leading()
            await self._client.apply(DEPLOYMENTS, deployment_name(name), body, self._pod_defaults.namespace, SCALER)
        await self._apply(pool, state, snapshot, deployed, None)

    def _decide(self, pool: GPUPool, state: _State, current: int, candidates: list[Candidate]) -> ScalingDecision:
        spec = pool.spec
        if spec.scaling.mode is ScalingMode.EXTERNAL and not pool.paused:
            wanted = spec.replicas or 0
            return ScalingDecision(wanted, ScalingReason.EXTERNAL, f"spec.replicas is {wanted}.", History(), None)
        busy = sum(one.jobs > 0 for one in candidates)
        ready = sum(one.ready for one in candidates)
        return scale(
            spec.scaling,
            spec.jobs_per_replica,
            state.demand,
            Replicas(current, ready, busy),
            state.cold_start,
            state.history,
            self._monotonic(),
            paused=pool.paused,
        )

    async def _drain(self, pool: GPUPool, candidates: list[Candidate], snapshot: Snapshot, count: int) -> int:
        """Ask that many replicas to drain, and the others no more; how many of them have, and may go."""
        chosen = set(victims(candidates, count))
        gone = 0
        for one in candidates:
            key = ReplicaKey(pool.metadata.name, one.name)
            replica = snapshot.replicas.get(key)
            if one.name not in chosen:
                await self._keep(pool, key, replica)
            elif replica is None or not replica.live:
                gone += 1
            elif not replica.drain_reason:
                # It may have got a job since the snapshot was taken. There is no pause between this look and the mark.
                if key not in self.leaving and held_jobs(self._snapshot().jobs)[key]:
                    continue
                self.leaving.add(key)
                await self._annotate(pool, one.name, SCALE_DOWN)
            elif replica.report.draining and one.jobs == 0:
                gone += 1
        return gone

    async def _keep(self, pool: GPUPool, key: ReplicaKey, replica: Replica | None) -> None:
        self.leaving.discard(key)
        if replica is not None and replica.drain_reason == SCALE_DOWN:
            await self._annotate(pool, key.name, None)

    async def _annotate(self, pool: GPUPool, name: str, reason: str | None) -> None:
        body = {"metadata": {"annotations": {DRAIN_ANNOTATION: reason}}}
        await self._unless_gone(LEASES, lease_name(pool.metadata.name, name), body)

    async def _price(self, pool: GPUPool, candidates: list[Candidate], snapshot: Snapshot) -> None:
        """Tell Kubernetes which pods to take: those that have been drained."""
        for name, cost in deletion_costs(candidates).items():
            pod = snapshot.pods.get(ReplicaKey(pool.metadata.name, name))
            if pod is not None and pod.deletion_cost != cost:
                await self._unless_gone(PODS, name, {"metadata": {"annotations": {DELETION_COST: str(cost)}}})

    def _check_leading(self) -> None:
        """Before every write: a successor may have decided otherwise since this turn began."""
        if not self._leading():
            raise _DeposedError

    async def _unless_gone(self, kind: ResourceKind, name: str, body: Json) -> None:
        self._check_leading()
        try:
            await self._client.merge_patch(kind, name, body, self._pod_defaults.namespace)
        except KubeError as error:
            if not error.not_found:
                raise

    async def _apply(
        self, pool: GPUPool, state: _State, snapshot: Snapshot, deployed: Deployed | None, replicas: int | None
    ) -> None:
        """Apply the Deployment where it is not as it should be, with so many replicas, or with as many as it has."""
        name = pool.metadata.name
        if (
            state.refused_generation == pool.metadata.generation
            and self._monotonic() < state.refused_at + REFUSED_SECONDS
        ):
            await self._resize(pool, state, deployed, replicas)
            return
        models = [snapshot.models[model] for model in pool.spec.models if model in snapshot.models]
        try:
            body = deployment(pool, models, self._pod_defaults, replicas)
            text = json.dumps(body, sort_keys=True)
            if deployed is not None and state.applied == text and state.generation == deployed.generation:
                state.refused, state.refused_generation = "", 0  # It was corrected by putting it back.
                return
            self._check_leading()
            answer = await self._client.apply(
                DEPLOYMENTS, deployment_name(name), body, self._pod_defaults.namespace, FIELD_MANAGER
            )
        except NoImageError as error:
            self._refuse(pool, state, str(error))
            await self._resize(pool, state, deployed, replicas)
            return
        except KubeError as error:
            # A fragment of the wrong type is refused with 500, of all codes; here that is no passing trouble.
            if error.transient and error.code != HTTPStatus.INTERNAL_SERVER_ERROR:
                raise
            self._refuse(pool, state, f"The API server refuses the Deployment of the pool's pods: {error}")
            await self._resize(pool, state, deployed, replicas)
            return
        state.applied, state.generation = text, answer["metadata"]["generation"]
        state.refused, state.refused_generation = "", 0
        self._applied(pool, state, answer, deployed, replicas)

    async def _resize(self, pool: GPUPool, state: _State, deployed: Deployed | None, replicas: int | None) -> None:
        """Change nothing but the number of replicas: those that there are have a template that was taken."""
        if deployed is None or replicas is None or deployed.wanted == replicas:
            return
        self._check_leading()
        name, body = deployment_name(pool.metadata.name), {"spec": {"replicas": replicas}}
        answer = await self._client.merge_patch(DEPLOYMENTS, name, body, self._pod_defaults.namespace)
        self._applied(pool, state, answer, deployed, replicas)

    def _applied(
        self, pool: GPUPool, state: _State, answer: Json, deployed: Deployed | None, replicas: int | None
    ) -> None:
        self._workloads.apply_deployment(answer)
        before = deployed.wanted if deployed else 0
        if replicas is not None and before != replicas and state.decision is not None:
            self._scaled(pool, state, state.decision, before, replicas)

    def _refuse(self, pool: GPUPool, state: _State, message: str) -> None:
        if message[:MESSAGE_LIMIT] != state.refused:
            logger.error("GPUPool %s: %s", pool.metadata.name, message)
        state.refused, state.refused_at = message[:MESSAGE_LIMIT], self._monotonic()
        state.refused_generation = pool.metadata.generation

    def _scaled(self, pool: GPUPool, state: _State, decision: ScalingDecision, before: int, after: int) -> None:
        state.last = LastScaling(
            time=self._now().replace(microsecond=0),
            from_replicas=before,
            to_replicas=after,
            reason=decision.reason.value,
            message=decision.message[:MESSAGE_LIMIT],
        )
        self._metrics.scalings.labels(pool.metadata.name, "up" if after > before else "down").inc()
        logger.info(
            "GPUPool %s: %d -> %d replicas: %s: %s",
            pool.metadata.name,
            before,
            after,
            decision.reason.value,
            decision.message,
        )

    def _scaling(self, name: str, state: _State) -> PoolScaling:
        deployed = self._workloads.deployed(name)
        decision = state.decision
        return PoolScaling(
            demand=state.demand,
            wanted=deployed.wanted if deployed else 0,
            reason=decision.reason if decision else None,
            message=decision.message if decision else "",
            cold_start_seconds=state.cold_start,
            estimates=self._estimates or Estimates(),
            last=state.last,
        )
