"""Everything the operator knows, indexed: the one state that all decisions are made from.

Pure and mutable: no I/O, no clock of its own. Watches, listings and answers to writes change it object by object;
each change costs O(log n), and what a cycle has to look at (jobs to settle, jobs that wait by class, jobs by
replica, moments that come) is kept up to date by it. A book that was kept by deltas equals one that is built anew
from the same objects.

An object is replaced only by a newer one (Kubernetes compares resource versions as integers, KEP-5504), so late
events and early answers may come in any order. An object that cannot be read is kept as it was when it last could,
and no decision is made on it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import TypeVar

from sortedcontainers import SortedDict

from videojob.api.gpupool import GPUPool
from videojob.api.videojob import Phase
from videojob.api.videomodel import VideoModel
from videojob.api.videoqueue import VideoQueue
from videojob.planner.agenda import Agenda, Need
from videojob.planner.decisions import Assign, Decision, Drain, Target, assumed, target
from videojob.planner.estimate import Estimates
from videojob.planner.facts import Deployed, Job, Moment, Pod, QueueKey, ReplicaKey
from videojob.planner.liveness import Beat, Contact, Liveness
from videojob.planner.memory import PoolMemory
from videojob.planner.observations import Claim, Labels
from videojob.planner.rules import DEFAULT_RULES, Rules
from videojob.planner.service import Departures, Service
from videojob.planner.verdicts import Verdicts

Key = TypeVar("Key")
Found = TypeVar("Found", VideoQueue, VideoModel, GPUPool)
ObjectKey = tuple[str, str]
"""Kind and uid of an object; kind and name of a Lease, pod or Deployment."""


class Book:
    """The operator's knowledge. Attributes are to be read; every change goes through a method."""

    def __init__(self, rules: Rules = DEFAULT_RULES, contact: Contact | None = None) -> None:
        self.rules = rules
        self.jobs: dict[str, Job] = {}
        """Every job that may still need a decision, by uid, as last read."""
        self.finished: dict[str, int] = {}
        """Versions of the others."""
        self.queues: dict[QueueKey, VideoQueue] = {}
        self.models: dict[str, VideoModel] = {}
        self.pools: dict[str, GPUPool] = {}
        self.pods: dict[ReplicaKey, Pod] = {}
        self.deployments: dict[str, Deployed] = {}
        self.liveness = Liveness(contact or Contact(rules.contact_gap_seconds))
        self.agenda = Agenda(rules)
        self.unreadable: dict[ObjectKey, str] = {}
        """Objects whose newest version cannot be read: why not."""
        self.opaque: dict[str, ReplicaKey] = {}
        """Replicas of jobs that could never be read, by uid: all that is known is that they take a place."""
        self.estimates = Estimates()
        self.memories: dict[str, PoolMemory] = {}
        """What is remembered of managed pools."""
        self.verdicts = Verdicts()
        self.counts: Counter[Labels] = Counter()
        """Jobs by labels."""
        self.service = Service()
        """Who was served lately by which pool's store and which replica."""
        self.departures = Departures()
        self.claims: dict[str, Claim] = {}
        """Of jobs that a replica holds, by uid."""

        self._pooled: float | None = None
        self._assumed: dict[str, Job] = {}
        self._busy: dict[Target, Decision] = {}
        self._rests: dict[Target, float] = {}
        self._resting: SortedDict[tuple[float, Target], None] = SortedDict()
        self._labels: dict[str, Labels] = {}
        self._unsettled: dict[str, None] = {}
        """Jobs that wait and whose model has changed, by uid."""

    # Jobs

    def put_job(self, job: Job, *, insert: bool = True) -> bool:
        """A job was read; whether it is newer than what was known.

        Answers to writes must not insert: the job may be gone meanwhile.
        """
        known = self.version(job.uid)
        if (known is not None and known >= job.version) or (known is None and not insert):
            return False
        self.unreadable.pop(("videojobs", job.uid), None)
        self.opaque.pop(job.uid, None)
        self.finished.pop(job.uid, None)
        self.departures.put(self.jobs.get(job.uid), job)
        self.jobs[job.uid] = job
        self._count(job.uid, Labels(job.namespace, job.queue, job.pool or "", job.phase.value))
        self._settle(job.uid)
        return True

    def drop_job(self, uid: str) -> None:
        """A job does not exist any more."""
        self.opaque.pop(uid, None)
        self.departures.drop(uid)
        self.jobs.pop(uid, None)
        self.finished.pop(uid, None)
        self._assumed.pop(uid, None)
        self.unreadable.pop(("videojobs", uid), None)
        self.claims.pop(uid, None)
        self.agenda.remove(uid)
        self._count(uid, None)

    def served_another(self, job: Job) -> bool:
        """Whether the store, or the replica, that handed the job back has served another job meanwhile."""
        return self.departures.served_another(job, self.service)

    def version(self, uid: str) -> int | None:
        """The resource version of a job, as known."""
        job = self.jobs.get(uid)
        return job.version if job is not None else self.finished.get(uid)

    def versions(self) -> dict[str, int]:
        """The resource version of every known job."""
        return self.finished | {uid: job.version for uid, job in self.jobs.items()}

    def _settle(self, uid: str) -> None:
        """Put the job where it belongs now."""
        job = self._assumed.get(uid) or self.jobs.get(uid)
        if job is None:
            self.agenda.remove(uid)
            return
        frozen = self.frozen(uid)
        need = self.agenda.put(job, self.models.get(job.model), frozen=frozen)
        if need is not Need.HELD:
            self.claims.pop(uid, None)
        over = need is Need.NOTHING and job.phase.finished and not job.deleted and self.agenda.until(uid) is None
        if over and not frozen:
            # Nothing will ever be decided on it: it takes the memory of its version alone.
            self.agenda.remove(uid)
            del self.jobs[uid]
            self.finished[uid] = job.version

    def frozen(self, uid: str) -> bool:
        """Whether nothing is to be decided on the job: a write is under way or has failed, or it cannot be read."""
        return self.busy(("job", uid)) or ("videojobs", uid) in self.unreadable

    def _count(self, uid: str, labels: Labels | None) -> None:
        old = self._labels.pop(uid, None)
        if old is not None:
            self.counts[old] -= 1
            if not self.counts[old]:
                del self.counts[old]
        if labels is not None:
            self._labels[uid] = labels
            self.counts[labels] += 1

    # Queues, models and pools

    def put_queue(self, queue: VideoQueue) -> bool:
        """A queue was read; whether it is newer than what was known."""
        return self._catalogue(
            "videoqueues", self.queues, QueueKey(queue.metadata.namespace, queue.metadata.name), queue
        )

    def drop_queue(self, key: QueueKey, uid: str) -> bool:
        """A queue does not exist any more."""
        return self._uncatalogue("videoqueues", self.queues, key, uid)

    def put_model(self, model: VideoModel) -> bool:
        """A model was read; whether it is newer than what was known."""
        name = model.metadata.name
        known = self.models.get(name)
        news = self._catalogue("videomodels", self.models, name, model)
        if news and (known is None or (known.metadata.uid, known.spec) != (model.metadata.uid, model.spec)):
            self._unsettle_jobs_of(name)
        return news

    def drop_model(self, name: str, uid: str) -> bool:
        """A model does not exist any more."""
        news = self._uncatalogue("videomodels", self.models, name, uid)
        if news:
            self._unsettle_jobs_of(name)
        return news

    def put_pool(self, pool: GPUPool) -> bool:
        """A pool was read; whether it is newer than what was known."""
        name = pool.metadata.name
        known = self.pools.get(name)
        news = self._catalogue("gpupools", self.pools, name, pool)
        if news and (known is None or known.metadata.uid != pool.metadata.uid):
            status = pool.status
            self.memories[name] = PoolMemory(
                cold_start_seconds=status.cold_start_seconds, last_scaling=status.last_scaling
            )
            self.estimates = self.estimates.with_pool(pool)
        return news

    def drop_pool(self, name: str, uid: str) -> bool:
        """A pool does not exist any more."""
        news = self._uncatalogue("gpupools", self.pools, name, uid)
        if news:
            self.memories.pop(name, None)
        return news

    def _unsettle_jobs_of(self, model: str) -> None:
        self._unsettled |= dict.fromkeys(self.agenda.pending.by_model.get(model, ()))

    def settle(self, limit: int | None = None) -> bool:
        """Put jobs whose model has changed where they belong, up to so many; whether some are left for `advance`."""
        for uid in tuple(islice(self._unsettled, limit)):
            del self._unsettled[uid]
            self._settle(uid)
        return bool(self._unsettled)

    def _catalogue(self, kind: str, catalogue: dict[Key, Found], key: Key, found: Found) -> bool:
        known = catalogue.get(key)
        if known is not None and int(known.metadata.resource_version) >= int(found.metadata.resource_version):
            return False
        self.unreadable.pop((kind, found.metadata.uid), None)
        catalogue[key] = found
        return True

    def _uncatalogue(self, kind: str, catalogue: dict[Key, Found], key: Key, uid: str) -> bool:
        self.unreadable.pop((kind, uid), None)
        known = catalogue.get(key)
        if known is None or known.metadata.uid != uid:
            return False
        del catalogue[key]
        return True

    def put_unreadable(
        self, kind: str, uid: str, why: str, holder: ReplicaKey | None = None, end: Phase | None = None
    ) -> bool:
        """The newest version of an object cannot be read: its last readable state stays; whether that is news.

        Where as much of a job can be read, `holder` is the replica that it names, and `end` the phase in which it has
        ended: nobody holds it then.
        """
        news = self.unreadable.get((kind, uid)) != why
        self.unreadable[kind, uid] = why
        if (known := self.jobs.get(uid)) is not None:
            self.jobs[uid] = known if end is None else replace(known, phase=end, assignment=None)
            self._settle(uid)
        elif holder is not None:
            self.opaque[uid] = holder
        else:
            self.opaque.pop(uid, None)
        return news

    # Replicas

    def put_beat(self, key: ReplicaKey, beat: Beat) -> bool:
        """A replica's Lease was seen; whether a plan could come out differently."""
        known = self.liveness.beats.get(key)
        renewed = known is None or known.renew_time != beat.renew_time
        news = self.liveness.put(key, beat)
        if renewed and beat.replica is not None:
            for uid, job in self.agenda.held.get(key, {}).items():
                claim = self.claims.get(uid)
                if claim is not None and claim.attempt == job.attempts:
                    anew = known is not None and known.holder != beat.holder
                    claim.reported(uid, beat.replica.report, beat.seen, anew=anew, patience=self.rules.blind_seconds)
        return news

    def drop_beat(self, key: ReplicaKey, now: float, *, left: bool) -> None:
        """A replica has no Lease any more."""
        if key in self.agenda.held or key in self.liveness.beats:
            self.liveness.drop(key, now, left=left)

    def put_pod(self, key: ReplicaKey, pod: Pod) -> bool:
        """A pod of a pool was seen; whether it is news."""
        if self.pods.get(key) == pod:
            return False
        self.pods[key] = pod
        return True

    def drop_pod(self, key: ReplicaKey) -> None:
        """A pod of a pool is gone."""
        self.pods.pop(key, None)

    def put_deployment(self, pool: str, deployed: Deployed) -> bool:
        """A pool's Deployment was seen; whether it is news."""
        known = self.deployments.get(pool)
        if known is not None and (known.version >= deployed.version or known == deployed):
            return False
        self.deployments[pool] = deployed
        return True

    def drop_deployment(self, pool: str) -> None:
        """A pool's Deployment is gone."""
        self.deployments.pop(pool, None)

    # Writes

    def begin(self, decision: Decision) -> None:
        """A decision is being carried out: it is assumed to succeed, and nothing else is decided on its target."""
        key = target(decision)
        self._busy[key] = decision
        if key[0] == "job":
            if isinstance(decision, Assign):
                self._assumed[decision.job.uid] = assumed(decision)
            self._settle(key[1])

    def end(self, decision: Decision) -> None:
        """The decision was carried out, or not: what it has changed was put, or will be."""
        key = target(decision)
        self._busy.pop(key, None)
        if key[0] == "job":
            self._assumed.pop(key[1], None)
            self._settle(key[1])

    def rest(self, key: Target, until: float) -> None:
        """Nothing is decided on the target until then, in monotonic seconds: a write on it has failed."""
        self._wake(key)
        self._rests[key] = until
        self._resting[until, key] = None
        if key[0] == "job":
            self._settle(key[1])

    def stands(self, decision: Decision) -> bool:
        """Whether a decision that waited is still right beside those that were begun meanwhile.

        A replica that is asked to drain gets no job, and one that got a job is not asked to.
        """
        match decision:
            case Drain(replica=replica, reason=str()):
                return replica not in self.agenda.held
            case Assign(replica=replica):
                beat = self.liveness.beats.get(replica)
                drains = beat is not None and beat.replica is not None and beat.replica.draining
                return not drains and replica not in self.draining()
            case _:
                return True

    def rests(self) -> Mapping[Target, float]:
        """Until when targets rest, in monotonic seconds."""
        return self._rests

    def busy(self, key: Target) -> bool:
        """Whether nothing is to be decided on the target now."""
        return key in self._busy or key in self._rests

    def draining(self) -> Iterator[ReplicaKey]:
        """Replicas that are being asked to drain at this moment."""
        return (one.replica for one in self._busy.values() if isinstance(one, Drain) and one.reason is not None)

    def _wake(self, key: Target) -> None:
        until = self._rests.pop(key, None)
        if until is not None:
            del self._resting[until, key]

    # Time

    def advance(self, now: Moment) -> None:
        """Time goes on to now: what it alone changes is put right."""
        self.settle()
        while self._resting and self._resting.peekitem(0)[0][0] <= now.mono:
            key = self._resting.peekitem(0)[0][1]
            self._wake(key)
            if key[0] == "job":
                self._settle(key[1])
        for uid in self.agenda.due(now.wall):
            self._settle(uid)
        self.liveness.forget_all_but(self.agenda.held.keys())
        for key, jobs in self.agenda.held.items():
            self.liveness.expect(key, now.mono)
            for uid, job in jobs.items():
                claim = self.claims.get(uid)
                if claim is None or claim.attempt != job.attempts:
                    claim = self.claims[uid] = Claim(job.attempts, now.mono)
                if claim.asked is None and job.assignment is not None and job.assignment.release:
                    claim.asked = now.mono
        self.liveness.declare(now.mono)
        if self.next_pool_turn(now) <= 0:
            self._pooled = now.mono

    def pool_turn(self, now: Moment) -> bool:
        """Whether pools and statuses are planned at that moment, up to which the book has been advanced."""
        return self._pooled == now.mono

    def next_pool_turn(self, now: Moment) -> float:
        """Seconds until pools and statuses are planned again."""
        return 0.0 if self._pooled is None else self._pooled + self.rules.pool_seconds - now.mono

    def next_rest(self, now: Moment) -> float | None:
        """Seconds until a target may be decided on again."""
        return self._resting.peekitem(0)[0][0] - now.mono if self._resting else None

    def remember(self, memories: Mapping[str, PoolMemory]) -> None:
        """What a plan is to be remembered by."""
        self.memories.update({name: memory for name, memory in memories.items() if name in self.pools})
