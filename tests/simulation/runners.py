"""Model runners: they follow the runner's contract, and make chunks of nothing at a fixed pace.

The contract (DESIGN.md, *Alive or dead* and *Cut off*): a Lease renewed three times in its length, with a report that
names the jobs; while it is not renewed the runner only creates, for so long at most; it reads a job before it writes
after a gap; chunks are records in the real JobStore; they are discarded only after Succeeded was accepted.
"""

import asyncio
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from tests.simulation.attempt import Attempt, Lost, Settings
from tests.simulation.clock import Clock
from tests.simulation.leftovers import hand_back, selected
from tests.simulation.model_store import Stores
from tests.simulation.network import Network
from tests.simulation.process import Process
from videojob.api.gpupool import GPUPool
from videojob.api.reasons import Reason
from videojob.api.replica import (
    COMPONENT_LABEL,
    DRAIN_ANNOTATION,
    POOL_LABEL,
    REPLICA_COMPONENT,
    REPLICA_LABEL,
    REPORT_ANNOTATION,
    HeldJob,
    LoadedModel,
    ModelState,
    ReplicaReport,
    lease_name,
)
from videojob.api.videojob import VideoJob
from videojob.kube.client import GPU_POOLS, LEASES, VIDEO_JOBS, VIDEO_MODELS, Json, KubeError, Listing

NAMESPACE = "videojob-system"
DIGEST = "sha256:0000"
LEASE_SECONDS = 15
LOOK_SECONDS = 10.0
"""Between looks at the pool."""
VIDEO = Path(tempfile.gettempdir()) / "videojob-simulation.mp4"


class LeaseLost(Exception):
    """The replica is somebody else's, or was cut off for too long."""


@dataclass
class Runner:
    """One runner process of one replica."""

    pool: str
    replica: str
    process: Process
    network: Network
    stores: Stores
    clock: Clock
    settings: Settings
    begun: Callable[[str, int, int], None]
    """Called with uid, index and attempt when the making of a chunk begins."""
    claims: dict[str, str]
    """By replica: the process that has claimed its Triton. Requests of others are refused."""
    unreadable: bool = False
    """Its reports are those of a version that nobody can read."""
    attempts: dict[str, Attempt] = field(default_factory=dict)
    gaps: int = 0
    drain_reason: str = ""
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Its pod ends: it hands back its jobs, gives up the Lease, and ends too."""
    _renewed: float | None = None
    _ended: dict[str, int] = field(default_factory=dict)
    _models: tuple[LoadedModel, ...] = ()
    _spec: GPUPool | None = None

    def __post_init__(self) -> None:
        self.kube = self.network.client(self.process)
        VIDEO.write_bytes(b"video")

    @property
    def age(self) -> float:
        return float("inf") if self._renewed is None else self.clock.monotonic() - self._renewed

    @property
    def fresh(self) -> bool:
        """It may write status, overwrite and delete."""
        return self.age < LEASE_SECONDS

    @property
    def lost(self) -> bool:
        """It may do nothing."""
        return self.age >= self.settings.cut_off_seconds

    @property
    def serves(self) -> bool:
        """It holds the replica, whether or not it can renew now."""
        return self._renewed is not None and not self.lost

    def stop(self) -> None:
        """As by SIGTERM."""
        self._stop.set()
        self._drain()

    @property
    def refused(self) -> bool:
        """Its Triton serves a newer runner."""
        return self.claims.get(f"{self.pool}.{self.replica}") != self.process.name

    @property
    def slots(self) -> int:
        endpoint = self._spec.spec.endpoint(self.replica) if self._spec is not None else None
        return endpoint.max_jobs if endpoint is not None else 0

    async def run(self) -> None:
        """Serve the replica, for ever."""
        first = True
        while not self._stop.is_set():
            await self._look()
            if self.slots:
                await self._take(wait=not first)
                first = False
                await self._tenure()
            await asyncio.sleep(1.0)

    async def _look(self) -> None:
        """Read the pool and its models; what cannot be read stays as it was."""
        try:
            found = GPUPool.model_validate(await self.kube.get(GPU_POOLS, self.pool))
            self._spec = found
            if not self._models:
                self._models = tuple([await self._load(name) for name in found.spec.models])
        except (KubeError, ValidationError):
            return

    async def _load(self, name: str) -> LoadedModel:
        uid = (await self.kube.get(VIDEO_MODELS, name))["metadata"]["uid"]
        return LoadedModel(name=name, uid=uid, state=ModelState.READY, digest=DIGEST)

    async def _tenure(self) -> None:
        tasks = [asyncio.create_task(code) for code in (self._keep(), self._work(), self._follow())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except LeaseLost:
            pass
        finally:
            self._renewed = None
            for attempt in tuple(self.attempts.values()):
                attempt.lose()
            for task in tasks:
                task.cancel()

    async def _follow(self) -> None:
        """Leave when the endpoint is none of the pool's any more; jobs are handed back first."""
        while True:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._stop.wait()
            except TimeoutError:
                pass
            else:
                await asyncio.gather(*(one.done.wait() for one in tuple(self.attempts.values())))
                await self._leave()
                return
            if self.fresh:
                await self._look()
            if not self.slots:
                self.drain_reason = "the endpoint was removed"
                self._drain()
                if not self.attempts:
                    return

    # The Lease

    async def _take(self, wait: bool) -> None:
        seen: tuple[object, float] = (None, self.clock.monotonic())
        while True:
            began = self.clock.monotonic()
            try:
                async with asyncio.timeout(LEASE_SECONDS / 3):
                    try:
                        lease = await self.kube.get(LEASES, lease_name(self.pool, self.replica), NAMESPACE)
                    except KubeError as error:
                        if not error.not_found:
                            raise
                        await self.kube.create(LEASES, self._new_lease(), NAMESPACE)
                        return self._taken(began, {})
                    spec = lease["spec"]
                    if wait and spec.get("holderIdentity") not in (None, self.process.name):
                        if spec.get("renewTime") != seen[0]:
                            seen = (spec.get("renewTime"), self.clock.monotonic())
                        if self.clock.monotonic() < seen[1] + LEASE_SECONDS:
                            await asyncio.sleep(1.0)
                            continue
                    body = self._new_lease()
                    notes = {**lease["metadata"].get("annotations", {}), **body["metadata"]["annotations"]}
                    body["metadata"] = {**lease["metadata"], **body["metadata"], "annotations": notes}
                    await self.kube.replace(LEASES, body["metadata"]["name"], body, NAMESPACE)
                    return self._taken(began, lease)
            except (KubeError, TimeoutError):
                await asyncio.sleep(1.0)

    def _taken(self, began: float, lease: Json) -> None:
        self._renewed = began
        self.gaps += 1
        self._notes(lease)

    async def _leave(self) -> None:
        """Give the Lease up, so that nobody has to wait until it expires."""
        operations = [
            {"op": "test", "path": "/spec/holderIdentity", "value": self.process.name},
            {"op": "remove", "path": "/spec/holderIdentity"},
        ]
        try:
            async with asyncio.timeout(LEASE_SECONDS / 3):
                await self.kube.json_patch(LEASES, lease_name(self.pool, self.replica), operations, NAMESPACE)
        except (KubeError, TimeoutError):
            return

    def _notes(self, lease: Json) -> None:
        self.drain_reason = lease.get("metadata", {}).get("annotations", {}).get(DRAIN_ANNOTATION, "")
        self._drain()

    @property
    def draining(self) -> bool:
        """It takes no job."""
        return self._stop.is_set() or bool(self.drain_reason)

    def _drain(self) -> None:
        if self.draining:
            for attempt in self.attempts.values():
                attempt.release(Reason.DRAINED.value)

    async def _keep(self) -> None:
        due = 0.0
        while True:
            await asyncio.sleep(max(due - self.clock.monotonic(), 0.0))
            if self.lost:
                raise LeaseLost
            began, was_fresh = self.clock.monotonic(), self.fresh
            due = began + LEASE_SECONDS / 15
            try:
                async with asyncio.timeout(LEASE_SECONDS / 3):
                    lease = await self._renew()
            except TimeoutError:
                continue
            except KubeError as error:
                if error.conflict and await self._replaced():
                    raise LeaseLost from None
                continue
            if self.lost:
                raise LeaseLost
            self.gaps += not was_fresh
            before = self.drain_reason
            self._notes(lease)
            # A drain that begins or ends is reported at once.
            self._renewed, due = began, began + (LEASE_SECONDS / 3 if self.drain_reason == before else 0.0)

    async def _renew(self) -> Json:
        body = self._new_lease()
        report = body["metadata"]["annotations"][REPORT_ANNOTATION]
        operations = [
            {"op": "test", "path": "/spec/holderIdentity", "value": self.process.name},
            {"op": "add", "path": "/spec/renewTime", "value": body["spec"]["renewTime"]},
            {"op": "add", "path": f"/metadata/annotations/{REPORT_ANNOTATION.replace('/', '~1')}", "value": report},
        ]
        try:
            return await self.kube.json_patch(LEASES, body["metadata"]["name"], operations, NAMESPACE)
        except KubeError as error:
            if not error.not_found:
                raise
            return await self.kube.create(LEASES, body, NAMESPACE)

    async def _replaced(self) -> bool:
        try:
            async with asyncio.timeout(LEASE_SECONDS / 3):
                lease = await self.kube.get(LEASES, lease_name(self.pool, self.replica), NAMESPACE)
        except (KubeError, TimeoutError):
            return False
        return bool(lease["spec"].get("holderIdentity") != self.process.name)

    def _new_lease(self) -> Json:
        held = tuple(HeldJob(uid=uid, attempt=one.number) for uid, one in sorted(self.attempts.items()))
        bucket = self.stores.open(self._spec.spec.store.url) if self._spec is not None else None
        down = bucket is not None and self.clock.monotonic() < bucket.down_until
        report = ReplicaReport(
            slots=self.slots,
            draining=self.draining,
            models=self._models,
            jobs=held,
            store_error="The store does not answer." if down else "",
            cut_off_seconds=int(self.settings.cut_off_seconds),
        )
        text = '{"slots": "many"}' if self.unreadable else json.dumps(report.wire())
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": lease_name(self.pool, self.replica),
                "labels": {POOL_LABEL: self.pool, REPLICA_LABEL: self.replica, COMPONENT_LABEL: REPLICA_COMPONENT},
                "annotations": {REPORT_ANNOTATION: text},
            },
            "spec": {
                "holderIdentity": self.process.name,
                "leaseDurationSeconds": LEASE_SECONDS,
                "renewTime": self.clock.now().isoformat(),
            },
        }

    # Jobs

    async def _work(self) -> None:
        self.claims[f"{self.pool}.{self.replica}"] = self.process.name
        await hand_back(self.kube, self.clock, self.pool, self.replica, self.settings.cut_off_seconds)
        async for event in self.kube.watch(VIDEO_JOBS, fieldSelector=selected(self.pool, self.replica)):
            if isinstance(event, Listing):
                present = {item["metadata"]["uid"] for item in event.items}
                for uid in [uid for uid in self.attempts if uid not in present]:
                    self.attempts[uid].lose()
                for item in event.items:
                    self._see(item)
            elif event.type == "DELETED":
                attempt = self.attempts.get(event.object["metadata"]["uid"])
                if attempt is not None:
                    attempt.lose()
            else:
                self._see(event.object)

    def _see(self, item: Json) -> None:
        uid, status = item["metadata"]["uid"], item.get("status", {})
        number, assignment = status.get("attempts", 0), status.get("assignment")
        known = self.attempts.get(uid)
        if assignment is None:
            return
        if known is not None and number < known.number:
            return
        if known is not None and number > known.number:
            known.lose()
            known = None
        if known is None and self._ended.get(uid, 0) < number:
            try:
                job = VideoJob.model_validate(item)
            except ValidationError:
                return  # It is not in the report, so the operator takes it back.
            known = self._start(uid, job)
        if known is not None:
            known.generation = max(known.generation, item["metadata"]["generation"])
            if assignment.get("release"):
                known.release(assignment["release"])
            if self.draining:
                known.release(Reason.DRAINED.value)

    def _start(self, uid: str, job: VideoJob) -> Attempt:
        attempt = Attempt(self, job)
        self.attempts[uid] = attempt
        task = asyncio.create_task(attempt.run())

        def ended(done: "asyncio.Task[None]") -> None:
            self._ended[uid] = max(self._ended.get(uid, 0), attempt.number)
            if self.attempts.get(uid) is attempt:
                del self.attempts[uid]
            attempt.done.set()
            if not done.cancelled() and done.exception() is not None and not isinstance(done.exception(), Lost):
                self.process.ended = done.exception()

        task.add_done_callback(ended)
        return attempt
