"""The replicas of a book at one moment: what every decision of a cycle looks at, made once."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from videojob.planner.book import Book
from videojob.planner.draining import leaving, surplus
from videojob.planner.facts import Health, Moment, Replica, ReplicaKey
from videojob.planner.pod_health import NamedPod


@dataclass(frozen=True)
class View:
    """Replicas, the jobs that they hold, and pods, by pool."""

    replicas: Mapping[ReplicaKey, Replica]
    """Every replica that has a Lease. One that must not get another job is draining."""
    health: Mapping[ReplicaKey, Health]
    """Of every replica that has a Lease or holds a job."""
    held: Counter[ReplicaKey]
    """Jobs that each replica holds, or gets by a write that is under way."""
    held_in: Mapping[str, Mapping[str, int]]
    """The same by pool, and name of the replica."""
    members: Mapping[str, list[ReplicaKey]]
    """Replicas by pool: its endpoints, or those of a managed pool whose runner has shown itself."""
    places: Mapping[ReplicaKey, int]
    """Jobs that its pool lets each replica take at a time; a replica that its pool does not list has none."""
    pods: Mapping[str, list[NamedPod]]
    """Pods by pool, in order of their names."""


def view(book: Book, now: Moment) -> View:
    """The book's replicas now."""
    liveness = book.liveness
    health = {key: liveness.health(key, now.mono) for key in liveness.beats}
    held = Counter({key: len(jobs) for key, jobs in book.agenda.held.items()})
    held.update(book.opaque.values())
    held_in: dict[str, dict[str, int]] = {name: {} for name in book.pools}
    for key, jobs in held.items():
        held_in.setdefault(key.pool, {})[key.name] = jobs
    replicas: dict[ReplicaKey, Replica] = {}
    members: dict[str, list[ReplicaKey]] = {name: [] for name in book.pools}
    places: dict[ReplicaKey, int] = {}
    for name, pool in book.pools.items():
        for endpoint in pool.spec.endpoints:
            key = ReplicaKey(name, endpoint.name)
            members[name].append(key)
            places[key] = endpoint.max_jobs
    going = set(book.draining())
    for key, beat in liveness.beats.items():
        if beat.replica is None:
            continue
        found, own = beat.replica, book.pools.get(key.pool)
        if own is not None and own.spec.managed:
            members[key.pool].append(key)
            places[key] = own.spec.jobs_per_replica
            pod = book.pods.get(key)
            if pod is None or pod.ending:
                going.add(key)
        draining = found.draining or key in going
        same = found.health is health[key] and found.draining == draining
        replicas[key] = found if same else replace(found, health=health[key], draining=draining)
    pods: dict[str, list[NamedPod]] = {name: [] for name in book.pools}
    for key, pod in book.pods.items():
        if key.pool in pods:
            pods[key.pool].append(NamedPod(key.name, pod))
    for found_pods in pods.values():
        found_pods.sort(key=lambda one: one.name)
    for key in {*surplus(replicas, pods, book.pools, held), *leaving(pods, book.deployments)} & replicas.keys():
        replicas[key] = replace(replicas[key], draining=True)
    return View(replicas, health, held, held_in, members, places, pods)
