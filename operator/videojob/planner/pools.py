"""Managed pools: their Deployments, how many replicas these have, and which replicas leave.

On the way down a replica is drained before it goes: its Lease is annotated, its runner hands its jobs back, its pod
gets the lowest deletion cost, and only then the number is lowered. Each of these steps is a decision of its own, made
from what the cluster shows: a new leader goes on where the last one stopped.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from videojob.api.conditions import MESSAGE_LIMIT
from videojob.api.gpupool import GPUPool, LastScaling, ScalingMode
from videojob.api.videomodel import VideoModel
from videojob.planner.book import Book
from videojob.planner.decisions import (
    ApplyDeployment,
    Drain,
    KeepReplicas,
    PoolDecision,
    Resize,
    SetDeletionCost,
    target,
)
from videojob.planner.draining import DRAINED_COST
from videojob.planner.facts import Moment, ReplicaKey
from videojob.planner.memory import Applied, PoolMemory, Refusal
from videojob.planner.removal import SCALE_DOWN, candidates_of, deletion_costs, victims
from videojob.planner.scaling import Demand, History, Replicas, ScalingDecision, ScalingReason, scale
from videojob.planner.view import View

REFUSED_SECONDS = 30.0
"""Pause before a Deployment that was refused is applied again, unless the pool's spec changes."""
COLD_START_WEIGHT = 0.3
"""Share of the latest cold start in the pool's estimate."""

MakeDeployment = Callable[[GPUPool, Sequence[VideoModel], int | None], dict[str, Any]]
"""Makes the Deployment of a pool that serves these models, with so many replicas; with None it leaves the number out.
Raises NoDeploymentError."""


class NoDeploymentError(Exception):
    """The pool cannot have a Deployment; the text says why, and what to do."""


class PoolScaling(NamedTuple):
    """What was decided of a pool's size, and from what."""

    demand: Demand
    wanted: int = 0
    """Replicas that a managed pool has by its Deployment."""
    reason: ScalingReason | None = None
    """None where the operator does not make the replicas."""
    message: str = ""


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """What to do about a pool."""

    memory: PoolMemory
    scaling: PoolScaling
    decisions: tuple[PoolDecision, ...] = ()
    leaving: frozenset[ReplicaKey] = frozenset()
    """Replicas that are asked to drain by one of the decisions: they must not get a job of the same plan."""
    wake_seconds: float | None = None
    """After so long another plan is due, even if nothing changes; None where time alone changes nothing."""


def plan_pool(book: Book, seen: View, pool: GPUPool, demand: Demand, now: Moment, make: MakeDeployment) -> PoolPlan:
    """What to do about a pool: nothing on a target where a write is under way or has just failed.

    Nothing at all about one whose newest version cannot be read: what it asks for is not known.
    """
    memory = book.memories[pool.metadata.name]
    if not pool.spec.managed or ("gpupools", pool.metadata.uid) in book.unreadable:
        return PoolPlan(memory, PoolScaling(demand))
    return _Case(book, seen, pool, demand, now, make, memory).plan()


class _Case:
    """One plan: its inputs by short names."""

    def __init__(
        self,
        book: Book,
        seen: View,
        pool: GPUPool,
        demand: Demand,
        now: Moment,
        make: MakeDeployment,
        memory: PoolMemory,
    ) -> None:
        self.book = book
        self.seen = seen
        self.pool = pool
        self.name = pool.metadata.name
        self.demand = demand
        self.now = now
        self.make = make
        self.memory = memory
        self.deployed = book.deployments.get(self.name)
        self.current = self.deployed.wanted if self.deployed is not None else 0
        self.candidates = candidates_of(self.name, seen)
        self.made: list[PoolDecision] = []
        self.wakes: list[float] = []

    def plan(self) -> PoolPlan:
        spec = self.pool.spec
        if spec.scaling.mode is ScalingMode.EXTERNAL and spec.replicas is None:
            decision = self._leave_to_others()
        else:
            decision = self._size()
        self.memory = replace(self.memory, history=decision.history)
        if decision.wake_seconds is not None:
            self.wakes.append(decision.wake_seconds)
        return PoolPlan(
            self.memory,
            PoolScaling(self.demand, self.current, decision.reason, decision.message),
            tuple(self.made),
            frozenset(one.replica for one in self.made if isinstance(one, Drain) and one.reason is not None),
            min(self.wakes, default=None),
        )

    def _size(self) -> ScalingDecision:
        """The number of replicas is ours to decide, or a person's on the pool: the Deployment follows."""
        decision = self._decide()
        # Also where none is to go: a pod that has drained may still be there after the number was lowered for it.
        gone = self._drain(len(self.candidates) - decision.wanted)
        replicas = decision.wanted
        if replicas < self.current:
            # By the pods that there are: one that has drained may still be seen after the number was lowered for it,
            # and one that was never made, as where a quota refuses it, is not waited for.
            left = max(replicas, len(self.candidates) - len(gone))
            lower = left < self.current and self._cheapest(gone)
            replicas = left if lower else self.current
        self._apply(decision, replicas)
        return decision

    def _leave_to_others(self) -> ScalingDecision:
        """An HPA or KEDA scales the Deployment itself; whichever pod goes drains as it ends."""
        message = "Whoever scales the pool's Deployment decides."
        decision = ScalingDecision(self.current, ScalingReason.EXTERNAL, message, History(), None)
        self._drain(0)
        self.candidates = [one._replace(draining=False) for one in self.candidates]
        self._keep_costs_true()
        if self.deployed is None:
            self._apply(decision, self.pool.spec.scaling.min_replicas)
        elif self.deployed.owned:
            # A field that nobody owns any more falls back to its default, which is 1 replica.
            self._decided(KeepReplicas(self.pool, self.deployed))
        else:
            self._apply(decision, None)
        return decision

    def _decide(self) -> ScalingDecision:
        spec = self.pool.spec
        if spec.scaling.mode is ScalingMode.EXTERNAL and not self.pool.paused:
            wanted = spec.replicas or 0
            return ScalingDecision(wanted, ScalingReason.EXTERNAL, f"spec.replicas is {wanted}.", History(), None)
        busy = sum(one.jobs > 0 for one in self.candidates)
        ready = sum(one.ready for one in self.candidates)
        return scale(
            spec.scaling,
            spec.jobs_per_replica,
            self.demand,
            Replicas(self.current, ready, busy),
            self.memory.cold_start_seconds,
            self.memory.history,
            self.now.mono,
            paused=self.pool.paused,
        )

    # Replicas that leave

    def _drain(self, count: int) -> set[str]:
        """Ask so many replicas to drain, and the others no more; the names of those that have, and may go."""
        chosen = set(victims(self.candidates, count))
        gone = set()
        for one in self.candidates:
            key = ReplicaKey(self.name, one.name)
            found = self.seen.replicas.get(key)
            if one.name not in chosen:
                if found is not None and found.drain_reason == SCALE_DOWN:
                    self._decided(Drain(key, None))
            elif one.jobs or self.book.busy(("lease", *key)):
                continue  # It still hands them back, or what it was asked last is not known yet.
            elif found is None or not found.live:
                gone.add(one.name)
            elif not found.drain_reason:
                self._decided(Drain(key, SCALE_DOWN))
            elif found.report.draining:
                gone.add(one.name)
        return gone

    def _has_drained(self, key: ReplicaKey) -> bool:
        """Whether somebody else has had it drained."""
        found = self.seen.replicas.get(key)
        return found is not None and found.report.draining and found.drain_reason != SCALE_DOWN

    # Deletion costs

    def _cheapest(self, gone: set[str]) -> bool:
        """Whether Kubernetes takes those that are gone before any other; if not, it is decided on now.

        What others cost changes with every job, and is not waited for.
        """
        for one in self._wrong_costs(gone):
            self._decided(one)
        costs = deletion_costs(self.candidates, gone)
        return all(
            (pod.deletion_cost <= DRAINED_COST) == (costs[name] <= DRAINED_COST)
            and not self.book.busy(("pod", self.name, name))
            for name, pod in self.seen.pods[self.name]
            if name in costs and (name in gone or pod.deletion_cost <= DRAINED_COST)
        )

    def _keep_costs_true(self) -> None:
        """Somebody else lowers the number at any time: costs are right now and then, not with every job."""
        drained = {one.name for one in self.candidates if self._has_drained(ReplicaKey(self.name, one.name))}
        wrong = tuple(self._wrong_costs(drained))
        since = self.memory.costs_at
        if not wrong:
            return
        wait = 0.0 if since is None else since + self.book.rules.external_cost_seconds - self.now.mono
        if wait > 0:
            self.wakes.append(wait)
            return
        for one in wrong:
            self._decided(one)
        self.memory = replace(self.memory, costs_at=self.now.mono)

    def _wrong_costs(self, gone: set[str]) -> Iterator[SetDeletionCost]:
        costs = deletion_costs(self.candidates, gone)
        for name, pod in self.seen.pods[self.name]:
            if name in costs and pod.deletion_cost != costs[name]:
                yield SetDeletionCost(ReplicaKey(self.name, name), pod.uid, costs[name])

    # The Deployment

    def _apply(self, decision: ScalingDecision, replicas: int | None) -> None:
        """Apply the Deployment where it is not as it should be, with so many replicas, or with as many as it has."""
        if self.book.busy(("deployment", self.name)):
            return
        if self._refused_lately():
            self._resize(decision, replicas)
            return
        models = [self.book.models[model] for model in self.pool.spec.models if model in self.book.models]
        try:
            body = json.dumps(self.make(self.pool, models, replicas), sort_keys=True)
        except NoDeploymentError as error:
            self.memory = refused(self.memory, self.pool, str(error), self.now.mono)
            self.wakes.append(REFUSED_SECONDS)
            self._resize(decision, replicas)
            return
        if self.deployed is not None and self.memory.applied == Applied(body, self.deployed.generation):
            # A refused template was corrected by putting it back, if there was one.
            self.memory = replace(self.memory, refused=None)
            return
        self._decided(ApplyDeployment(self.pool, body, replicas, self._scaling(decision, replicas)))

    def _refused_lately(self) -> bool:
        found = self.memory.refused
        if found is None or found.pool_generation != self.pool.metadata.generation:
            return False
        wait = found.at + REFUSED_SECONDS - self.now.mono
        if wait > 0:
            self.wakes.append(wait)
        return wait > 0

    def _resize(self, decision: ScalingDecision, replicas: int | None) -> None:
        """Change nothing but the number of replicas: those that there are have a template that was taken."""
        if self.deployed is not None and replicas is not None and replicas != self.current:
            self._decided(Resize(self.pool, self.deployed, replicas, self._scaling(decision, replicas)))

    def _scaling(self, decision: ScalingDecision, replicas: int | None) -> LastScaling | None:
        if replicas is None or replicas == self.current:
            return None
        return LastScaling(
            time=self.now.wall.replace(microsecond=0),
            from_replicas=self.current,
            to_replicas=replicas,
            reason=decision.reason.value,
            message=decision.message[:MESSAGE_LIMIT],
        )

    def _decided(self, decision: PoolDecision) -> None:
        if not self.book.busy(target(decision)):
            self.made.append(decision)


def applied(memory: PoolMemory, decision: ApplyDeployment | Resize, generation: int) -> PoolMemory:
    """The memory once the decision was carried out, and the Deployment has that generation."""
    scaling = decision.scaling or memory.last_scaling
    if isinstance(decision, Resize):
        return replace(memory, last_scaling=scaling)
    return replace(memory, last_scaling=scaling, applied=Applied(decision.body, generation), refused=None)


def refused(memory: PoolMemory, pool: GPUPool, message: str, at: float) -> PoolMemory:
    """The memory once the pool's Deployment was refused for good, at that moment in monotonic seconds."""
    return replace(memory, refused=Refusal(message[:MESSAGE_LIMIT], at, pool.metadata.generation))


def cold_started(memory: PoolMemory, seconds: float) -> PoolMemory:
    """The memory once a pod of the pool took so long from its creation to being ready."""
    old = memory.cold_start_seconds
    return replace(memory, cold_start_seconds=seconds if old is None else old + COLD_START_WEIGHT * (seconds - old))
