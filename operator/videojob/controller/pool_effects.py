"""Decisions on pools and their replicas as API writes."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from http import HTTPStatus

from videojob.api.conditions import MESSAGE_LIMIT
from videojob.api.gpupool import GPUPool, LastScaling
from videojob.api.replica import COMPONENT_LABEL, DRAIN_ANNOTATION, REPLICA_COMPONENT, lease_name
from videojob.api.videomodel import VideoModel
from videojob.controller.intake import Intake
from videojob.controller.leading import LeaderClient
from videojob.controller.metrics import OperatorMetrics
from videojob.controller.reading import FIELD_MANAGER, UnreadableError, version_of
from videojob.kube.answers import identified
from videojob.kube.client import DEPLOYMENTS, LEASES, PODS, Json, KubeError
from videojob.planner.book import Book
from videojob.planner.decisions import (
    ApplyDeployment,
    Drain,
    KeepReplicas,
    PoolDecision,
    Resize,
    SetDeletionCost,
    VerifyLeases,
)
from videojob.planner.memory import Applied, Refusal
from videojob.planner.pools import MakeDeployment, NoDeploymentError
from videojob.planner.removal import SCALE_DOWN
from videojob.workload.deployment import NoImageError, PodDefaults, deployment, deployment_name
from videojob.workload.pod import DELETION_COST

logger = logging.getLogger(__name__)

REPLICA_SELECTOR = f"{COMPONENT_LABEL}={REPLICA_COMPONENT}"
SCALER = "videojob-scaler"
"""Field manager that keeps the number of replicas from the operator's last write until somebody else's first."""
_DRAIN_PATH = "/metadata/annotations/" + DRAIN_ANNOTATION.replace("~", "~0").replace("/", "~1")


def deployment_maker(defaults: PodDefaults) -> MakeDeployment:
    """Makes the Deployments of pools whose pods have these in common."""

    def make(pool: GPUPool, models: Sequence[VideoModel], replicas: int | None) -> Json:
        try:
            return deployment(pool, models, defaults, replicas)
        except NoImageError as error:
            raise NoDeploymentError(str(error)) from error

    return make


class PoolEffects:
    """Carries out decisions on pools; their Deployments, pods and Leases are in one namespace."""

    def __init__(
        self,
        book: Book,
        intake: Intake,
        metrics: OperatorMetrics,
        namespace: str,
        monotonic: Callable[[], float],
    ) -> None:
        self._book = book
        self._intake = intake
        self._metrics = metrics
        self._namespace = namespace
        self._monotonic = monotonic

    async def apply(self, decision: PoolDecision, api: LeaderClient) -> None:
        """Carry a decision out. Raises KubeError or DeposedError."""
        match decision:
            case ApplyDeployment():
                await self._apply_deployment(decision, api)
            case Resize():
                await self._resize(decision, api)
            case KeepReplicas(pool=pool, deployed=deployed):
                name = deployment_name(pool.metadata.name)
                body = {
                    "apiVersion": "apps/v1",
                    "kind": "Deployment",
                    "metadata": {"name": name, "resourceVersion": str(deployed.version)},
                    "spec": {"replicas": deployed.wanted},
                }
                self._intake.apply(DEPLOYMENTS, await api.apply(DEPLOYMENTS, name, body, self._namespace, SCALER))
            case Drain():
                await self._drain(decision, api)
            case SetDeletionCost():
                await self._set_deletion_cost(decision, api)
            case VerifyLeases():
                await self._verify_leases(api)

    async def _apply_deployment(self, decision: ApplyDeployment, api: LeaderClient) -> None:
        pool = decision.pool
        name = deployment_name(pool.metadata.name)
        try:
            answer = await api.apply(DEPLOYMENTS, name, json.loads(decision.body), self._namespace, FIELD_MANAGER)
        except KubeError as error:
            # A fragment of the wrong type is refused with 500, of all codes; here that is no passing trouble.
            if error.conflict or (error.transient and error.code != HTTPStatus.INTERNAL_SERVER_ERROR):
                raise
            self._refused(decision, f"The API server refuses the Deployment of the pool's pods: {error}")
            return
        self._intake.apply(DEPLOYMENTS, answer)
        memory = self._book.memories.get(pool.metadata.name)
        if memory is not None:
            applied = Applied(decision.body, int(answer["metadata"]["generation"]))
            self._book.remember({pool.metadata.name: replace(memory, applied=applied, refused=None)})
        self._scaled(pool.metadata.name, decision.scaling)

    def _refused(self, decision: ApplyDeployment, message: str) -> None:
        name, generation = decision.pool.metadata.name, decision.pool.metadata.generation
        memory = self._book.memories.get(name)
        message = message[:MESSAGE_LIMIT]
        if memory is None:
            return
        if memory.refused is None or memory.refused.message != message:
            logger.error("GPUPool %s: %s", name, message)
        refusal = Refusal(message, self._monotonic(), generation)
        self._book.remember({name: replace(memory, refused=refusal)})

    async def _resize(self, decision: Resize, api: LeaderClient) -> None:
        pool = decision.pool.metadata.name
        operations = [
            {"op": "test", "path": "/metadata/generation", "value": decision.deployed.generation},
            {"op": "add", "path": "/spec/replicas", "value": decision.replicas},
        ]
        answer = await api.json_patch(DEPLOYMENTS, deployment_name(pool), operations, self._namespace)
        self._intake.apply(DEPLOYMENTS, answer)
        self._scaled(pool, decision.scaling)

    def _scaled(self, pool: str, scaling: LastScaling | None) -> None:
        memory = self._book.memories.get(pool)
        if scaling is None or memory is None:
            return
        self._book.remember({pool: replace(memory, last_scaling=scaling)})
        before, after = scaling.from_replicas, scaling.to_replicas
        self._metrics.scalings.labels(pool, "up" if after > before else "down").inc()
        logger.info("GPUPool %s: %d -> %d replicas: %s: %s", pool, before, after, scaling.reason, scaling.message)

    async def _drain(self, decision: Drain, api: LeaderClient) -> None:
        name = lease_name(*decision.replica)
        if decision.reason is not None:
            body = {"metadata": {"annotations": {DRAIN_ANNOTATION: decision.reason}}}
            request = api.merge_patch(LEASES, name, body, self._namespace)
        else:
            # Only the operator's own request is taken back, never a person's.
            test = {"op": "test", "path": _DRAIN_PATH, "value": SCALE_DOWN}
            remove = {"op": "remove", "path": _DRAIN_PATH}
            request = api.json_patch(LEASES, name, [test, remove], self._namespace)
        try:
            self._intake.apply(LEASES, await request)
        except KubeError as error:
            if not error.not_found:
                raise

    async def _set_deletion_cost(self, decision: SetDeletionCost, api: LeaderClient) -> None:
        # A uid in a patch is a precondition: another pod of that name is a conflict.
        metadata = {"uid": decision.pod_uid, "annotations": {DELETION_COST: str(decision.cost)}}
        try:
            answer = await api.merge_patch(PODS, decision.replica.name, {"metadata": metadata}, self._namespace)
        except KubeError as error:
            if not error.not_found:
                raise
            return
        self._intake.apply(PODS, answer)

    async def _verify_leases(self, api: LeaderClient) -> None:
        """List all Leases, consistently: without a resource version the API server asks a quorum of etcd."""
        sent = self._monotonic()
        listing = await api.list(LEASES, self._namespace, labelSelector=REPLICA_SELECTOR)
        items: list[Json] = listing.get("items") or []
        try:
            version = version_of(listing)
        except UnreadableError as error:
            raise KubeError(0, f"the listing of Leases cannot be used: {error}") from error
        known = [item for item in items if identified(item)]
        if len(known) == len(items):
            self._intake.restore(LEASES, known, version)
        else:
            for item in known:
                self._intake.apply(LEASES, item)
        self._book.liveness.listed(sent, self._intake.renewals(known))
