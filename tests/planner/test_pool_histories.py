"""What holds of a managed pool whatever happens to it, in whatever order: jobs, drains, late writes, Kubernetes."""

from dataclasses import replace
from random import Random

from tests.planner.builders import MONO, NOW, RESOLVED, book, job, managed, pod, replica
from tests.planner.pool_world import make
from videojob.api.videojob import Assignment, Phase
from videojob.planner.decisions import (
    ApplyDeployment,
    Assign,
    Decision,
    Drain,
    KeepReplicas,
    Resize,
    SetDeletionCost,
    target,
)
from videojob.planner.demand import demands
from videojob.planner.facts import Deployed, Moment, Pod, ReplicaKey
from videojob.planner.liveness import Beat
from videojob.planner.pools import PoolPlan, applied, plan_pool
from videojob.planner.removal import SCALE_DOWN
from videojob.planner.view import view

PERSON = "maintenance"


class History:
    """A pool of at most four replicas; every write takes its time, and so does every answer of Kubernetes."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.external = self.random.random() < 0.3
        self.least = self.random.randint(0, 1)
        scaling = {
            "mode": "External" if self.external else "Backlog",
            "min_replicas": self.least,
            "max_replicas": 4,
            "target_seconds": 60,
            "stabilization_seconds": 0,
            "idle_seconds": 0,
        }
        self.book = book(pools=[managed(scaling=scaling, replicas=2 if self.external else None)], replicas={})
        self.now = Moment(NOW, MONO)
        self.under_way: list[Decision] = []
        self.made = 0
        self.removed = 0
        self.by_hand: set[ReplicaKey] = set()

    def step(self) -> None:
        """One thing happens."""
        weights = {
            self.cycle: 6,
            self.a_write_ends: 6,
            self.a_job_comes: 2,
            self.a_job_is_done: 3,
            self.kubernetes_makes_pods: 2,
            self.a_pod_is_ready: 4,
            self.kubernetes_removes_pods: 2,
            self.a_runner_follows_its_lease: 4,
            self.a_person_asks_for_a_drain_or_no_more: 0.3,
            self.a_person_sets_the_number: 0.5,
        }
        (action,) = self.random.choices(list(weights), list(weights.values()))
        action()

    # The operator

    def cycle(self) -> None:
        """One cycle, which places some of the waiting jobs as well."""
        plan = self.plan()
        targets = [target(decision) for decision in plan.decisions]
        assert len(targets) == len(set(targets)), "one decision a target"
        assert not any(self.book.busy(one) for one in targets)
        seen = view(self.book, self.now)
        for decision in plan.decisions:
            if isinstance(decision, Drain) and decision.reason is not None:
                assert not seen.held[decision.replica], "one with a job is never asked to drain"
                assert decision.replica in plan.leaving
            if isinstance(decision, Drain):
                assert decision.replica not in self.by_hand, "a person's drain is left alone"
            self.begin(decision)
        free = [
            key
            for key, found in seen.replicas.items()
            if found.live and not found.draining and not found.report.draining and not seen.held[key]
        ]
        waiting = [one for one in self.book.jobs.values() if one.waits and not self.book.frozen(one.uid)]
        for key, one in zip(
            (key for key in free if key not in plan.leaving), waiting[: self.random.randint(0, 2)], strict=False
        ):
            self.begin(Assign(one, key, RESOLVED, "file:///store"))

    def plan(self) -> PoolPlan:
        self.now = Moment(self.now.wall, self.now.mono + 1)
        self.book.advance(self.now)
        seen = view(self.book, self.now)
        asked = demands(self.book, seen, self.now)
        plan = plan_pool(self.book, seen, self.book.pools["p"], asked["p"], self.now, make)
        self.book.remember({"p": plan.memory})
        return plan

    def begin(self, decision: Decision) -> None:
        self.book.begin(decision)
        self.under_way.append(decision)

    def a_write_ends(self) -> None:
        if not self.under_way:
            return
        decision = self.random.choice(self.under_way)
        self.under_way.remove(decision)
        if self.random.random() < 0.8:
            self.write(decision)
        self.book.end(decision)

    def write(self, decision: Decision) -> None:
        known = self.book.deployments.get("p", Deployed(0, 0))
        match decision:
            case ApplyDeployment(replicas=replicas) | Resize(replicas=replicas):
                assert replicas is not None
                self.book.put_deployment("p", Deployed(replicas, known.generation + 1, True, known.version + 1))
                self.book.remember({"p": applied(self.book.memories["p"], decision, known.generation + 1)})
            case Drain(replica=key, reason=reason):
                if key in self.book.liveness.beats:
                    self.annotate(key, reason or "")
            case SetDeletionCost(replica=key, cost=cost):
                if key in self.book.pods:
                    self.book.put_pod(key, replace(self.book.pods[key], deletion_cost=cost))
            case Assign():
                one = self.book.jobs[decision.job.uid]
                assignment = Assignment(pool="p", replica=decision.replica.name)
                self.book.put_job(
                    replace(one, assignment=assignment, phase=Phase.RUNNING, attempts=1, version=one.version + 1)
                )
            case KeepReplicas():
                raise AssertionError("nobody else scales this pool")

    # Jobs

    def a_job_comes(self) -> None:
        self.made += 1
        self.book.put_job(job(f"j{self.made}"))

    def a_job_is_done(self) -> None:
        running = [one for one in self.book.jobs.values() if one.assignment is not None]
        if running:
            one = self.random.choice(running)
            self.book.put_job(replace(one, assignment=None, phase=Phase.SUCCEEDED, version=one.version + 1))

    # Kubernetes, runners and people

    def kubernetes_makes_pods(self) -> None:
        """As many as are missing.

        Not while the number is being changed: pods that were missing then, and come before the write arrives, are
        too many at once, and Kubernetes ends one, whatever it holds. That is a drain, which costs the job nothing.
        """
        if self.book.busy(("deployment", "p")):
            return
        wanted = self.book.deployments["p"].wanted if "p" in self.book.deployments else 0
        for _ in range(wanted - len(self.book.pods)):
            self.made += 1
            key = ReplicaKey("p", f"r{self.made}")
            self.book.put_pod(key, pod(uid=key.name, ready_since=None))

    def a_pod_is_ready(self) -> None:
        """Its runner shows itself. A cold start takes longer than a write on the Deployment."""
        new = [key for key, one in self.book.pods.items() if one.ready_since is None]
        if new and not self.book.busy(("deployment", "p")):
            key = self.random.choice(new)
            self.book.put_pod(key, pod(uid=key.name))
            self.book.put_beat(key, Beat(replica(slots=1), key.name, "1", 1e6, MONO))

    def kubernetes_removes_pods(self) -> None:
        """As many as are too many, those not ready and the cheapest first: it does not know what they hold."""
        wanted = self.book.deployments["p"].wanted if "p" in self.book.deployments else 0

        def order(entry: tuple[ReplicaKey, Pod]) -> tuple[bool, int, str]:
            return entry[1].ready_since is not None, entry[1].deletion_cost, entry[0].name

        for key, _ in sorted(self.book.pods.items(), key=order)[: max(0, len(self.book.pods) - wanted)]:
            assert not view(self.book, self.now).held[key], "no pod with a job is removed"
            self.removed += 1
            self.book.drop_pod(key)
            self.book.drop_beat(key, self.now.mono, left=True)
            self.by_hand.discard(key)

    def a_runner_follows_its_lease(self) -> None:
        keys = [key for key, beat in self.book.liveness.beats.items() if beat.replica is not None]
        if keys:
            key = self.random.choice(sorted(keys))
            found = self.book.liveness.beats[key].replica
            assert found is not None
            report = found.report.model_copy(update={"draining": bool(found.drain_reason)})
            self.put(key, replace(found, report=report))

    def a_person_asks_for_a_drain_or_no_more(self) -> None:
        keys = [
            key
            for key, beat in self.book.liveness.beats.items()
            if beat.replica is not None
            and beat.replica.drain_reason in ("", PERSON)
            and not self.book.busy(("lease", *key))
        ]
        if keys:
            key = self.random.choice(sorted(keys))
            found = self.book.liveness.beats[key].replica
            assert found is not None
            self.annotate(key, "" if found.drain_reason else PERSON)
            (self.by_hand.discard if found.drain_reason else self.by_hand.add)(key)

    def a_person_sets_the_number(self) -> None:
        if self.external:
            own = self.book.pools["p"]
            version = str(int(own.metadata.resource_version) + 1)
            metadata = own.metadata.model_copy(update={"resource_version": version})
            spec = own.spec.model_copy(update={"replicas": self.random.randint(0, 4)})
            self.book.put_pool(own.model_copy(update={"metadata": metadata, "spec": spec}))

    def annotate(self, key: ReplicaKey, reason: str) -> None:
        found = self.book.liveness.beats[key].replica
        assert found is not None
        self.put(key, replace(found, drain_reason=reason, draining=bool(reason) or found.report.draining))

    def put(self, key: ReplicaKey, found: object) -> None:
        known = self.book.liveness.beats[key]
        self.book.put_beat(key, replace(known, replica=found, renew_time=str(int(known.renew_time) + 1)))  # type: ignore[arg-type]

    # What becomes of it

    def rest(self) -> None:
        """Once nothing happens any more, the pool comes to rest at the size that it is to have."""
        for one in list(self.book.jobs.values()):
            if one.assignment is None:
                self.book.drop_job(one.uid)
        for _ in range(10):
            for decision in tuple(self.under_way):
                self.under_way.remove(decision)
                if not isinstance(decision, Assign) or decision.job.uid in self.book.jobs:
                    self.write(decision)
                self.book.end(decision)
            for one in list(self.book.jobs.values()):
                self.book.drop_job(one.uid)
            self.kubernetes_makes_pods()
            self.kubernetes_removes_pods()
            for key, beat in list(self.book.liveness.beats.items()):
                if beat.replica is not None:
                    report = beat.replica.report.model_copy(update={"draining": bool(beat.replica.drain_reason)})
                    self.put(key, replace(beat.replica, report=report))
            for decision in self.plan().decisions:
                self.begin(decision)
        spec = self.book.pools["p"].spec
        expected = spec.replicas if spec.replicas is not None else spec.scaling.min_replicas
        assert len(self.book.pods) == self.book.deployments["p"].wanted == expected
        assert self.plan().decisions == ()
        asked = {key for key, beat in self.book.liveness.beats.items() if beat.replica and beat.replica.drain_reason}
        assert asked == self.by_hand, f"none is drained for nothing ({SCALE_DOWN})"


def test_whatever_happens_no_job_loses_its_pod_and_the_pool_comes_to_rest() -> None:
    removed = 0
    for seed in range(150):
        history = History(seed)
        try:
            for _ in range(120):
                history.step()
            history.rest()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        removed += history.removed
    assert removed > 150, "the histories come by what they are about"
