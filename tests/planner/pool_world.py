"""A managed pool in virtual time: what is decided on it, and what becomes of that."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tests.planner.builders import MOMENT, MONO, NOW, beat, book, key, managed, replica
from videojob.api.gpupool import GPUPool
from videojob.api.videomodel import VideoModel
from videojob.planner.book import Book
from videojob.planner.decisions import (
    ApplyDeployment,
    Drain,
    KeepReplicas,
    PoolDecision,
    Resize,
    SetDeletionCost,
    SetPoolStatus,
    SetQueueStatus,
)
from videojob.planner.demand import demands
from videojob.planner.facts import Deployed, Moment, Replica, ReplicaKey
from videojob.planner.pools import NoDeploymentError, PoolPlan, applied, plan_pool
from videojob.planner.removal import SCALE_DOWN
from videojob.planner.summary import pool_status, queue_statuses
from videojob.planner.view import view
from videojob.workload.deployment import NoImageError, PodDefaults, deployment

SITE = PodDefaults(triton_image="triton:1", runner_image="runner:1")


def make(pool: GPUPool, models: Sequence[VideoModel], replicas: int | None) -> dict[str, Any]:
    """The real Deployment."""
    return deployment(pool, models, SITE, replicas)


def make_without_image(pool: GPUPool, models: Sequence[VideoModel], replicas: int | None) -> dict[str, Any]:
    """The real Deployment of an operator that was given no images."""
    try:
        return deployment(pool, models, PodDefaults(), replicas)
    except NoImageError as error:
        raise NoDeploymentError(str(error)) from error


def plans(book: Book, now: Moment = MOMENT, making: Any = make) -> dict[str, PoolPlan]:
    """The plan of every pool."""
    book.advance(now)
    seen = view(book, now)
    asked = demands(book, seen, now)
    return {name: plan_pool(book, seen, pool, asked[name], now, making) for name, pool in sorted(book.pools.items())}


def planned(book: Book, now: Moment = MOMENT, making: Any = make) -> PoolPlan:
    """The plan of pool p."""
    return plans(book, now, making)["p"]


def statuses(book: Book, now: Moment = MOMENT) -> list[SetPoolStatus]:
    """The statuses of pools that are to change."""
    seen = view(book, now)
    found = (pool_status(book, seen, book.pools[name], plan, now) for name, plan in plans(book, now).items())
    return [status for status in found if status is not None]


def queues(book: Book, now: Moment = MOMENT) -> list[SetQueueStatus]:
    """The statuses of queues that are to change."""
    book.advance(now)
    return list(queue_statuses(book, now))


def brief(decision: PoolDecision) -> str:
    """A decision in few words."""
    match decision:
        case ApplyDeployment(replicas=replicas):
            return f"apply {replicas}"
        case Resize(replicas=replicas):
            return f"resize {replicas}"
        case KeepReplicas():
            return "keep"
        case Drain(replica=replica, reason=reason):
            return f"drain {replica.name}" if reason else f"undrain {replica.name}"
        case SetDeletionCost(replica=replica, cost=cost):
            return f"cost {replica.name} {cost}"
        case _:
            return type(decision).__name__


def briefly(plan: PoolPlan) -> list[str]:
    """Its decisions in few words."""
    return [brief(decision) for decision in plan.decisions]


def settled(book: Book, replicas: int | None, now: Moment = MOMENT) -> Book:
    """The book, once the Deployment of pool p is as it should be, with so many replicas."""
    pool = book.pools["p"]
    models = [book.models[name] for name in pool.spec.models if name in book.models]
    body = json.dumps(make(pool, models, replicas), sort_keys=True)
    decision = ApplyDeployment(pool, body, replicas)
    known = book.deployments.get("p", Deployed(0, 0))
    wanted = known.wanted if replicas is None else replicas
    book.put_deployment("p", Deployed(wanted, known.generation + 1, replicas is not None, known.version + 1))
    book.remember({"p": applied(book.memories["p"], decision, known.generation + 1)})
    return book


def carry_out(book: Book, plan: PoolPlan) -> list[str]:
    """Do what was decided, as the API server does; the decisions in few words."""
    book.remember({"p": plan.memory})
    for decision in plan.decisions:
        book.begin(decision)
        known = book.deployments.get("p", Deployed(0, 0))
        match decision:
            case ApplyDeployment(replicas=replicas) | Resize(replicas=replicas):
                wanted = known.wanted if replicas is None else replicas
                owned = known.owned if isinstance(decision, Resize) else replicas is not None
                book.put_deployment("p", Deployed(wanted, known.generation + 1, owned, known.version + 1))
                book.remember({"p": applied(book.memories["p"], decision, known.generation + 1)})
            case KeepReplicas():
                book.put_deployment("p", replace(known, owned=False, version=known.version + 1))
            case Drain(replica=replica, reason=reason):
                found = book.liveness.beats[replica].replica
                assert found is not None
                asked = replace(found, drain_reason=reason or "", draining=bool(reason) or found.report.draining)
                put_replica(book, replica, asked)
            case SetDeletionCost(replica=replica, cost=cost):
                book.put_pod(replica, replace(book.pods[replica], deletion_cost=cost))
        book.end(decision)
    return briefly(plan)


def put_replica(book: Book, name: ReplicaKey | str, found: Replica) -> None:
    """A replica's Lease is like this from now on."""
    replica = key(name) if isinstance(name, str) else name
    known = book.liveness.beats.get(replica)
    renewals = int(known.renew_time) if known is not None else 0
    book.put_beat(replica, beat(found, renew_time=str(renewals + 1)))


def drains(book: Book, name: str) -> None:
    """The replica's runner reports that it drains, as it was asked to."""
    found = book.liveness.beats[key(name)].replica
    assert found is not None
    put_replica(book, name, replace(found, report=found.report.model_copy(update={"draining": True})))


AT_ONCE: dict[str, Any] = {"stabilization_seconds": 0, "idle_seconds": 0}
EXTERNAL: dict[str, Any] = {"mode": "External"}


def at(seconds: float) -> Moment:
    """So many seconds later, on the monotonic clock."""
    return Moment(NOW, MONO + seconds)


def idle(**fields: Any) -> Replica:
    """A replica of a pod."""
    return replica(**{"slots": 1} | fields)


def asked(reason: str = SCALE_DOWN, draining: bool = False) -> Replica:
    """A replica that was asked to drain; its report says whether it does."""
    found = idle(drain_reason=reason)
    return replace(found, draining=True, report=found.report.model_copy(update={"draining": draining}))


DRAINED = asked(draining=True)


def world(
    *jobs: Any,
    wanted: int,
    replicas: dict[str, Replica] | None = None,
    own: GPUPool | None = None,
    **fields: Any,
) -> Book:
    """Pool p, which shrinks at once, with a Deployment of so many replicas that is as it should be."""
    own = own or managed(scaling=AT_ONCE)
    found = {f"p/{name}": one for name, one in (replicas or {}).items()}
    made = book(*jobs, pools=[own], replicas=found, **fields)
    others = own.spec.scaling.mode == "External" and own.spec.replicas is None
    if others:
        made.put_deployment("p", Deployed(wanted, 0))
    return settled(made, None if others else wanted)
