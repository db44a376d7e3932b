"""The replica's Lease: its heartbeat, its report, and by both how the runner stands (`hold`).

Whoever takes the Lease writes its identity into it, so the one before sees that it was replaced. A runner that could
not renew goes on as `hold` allows, and renews the same Lease when the API server is back, unless somebody has changed
its holder. One that was deleted meanwhile is made anew.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any

from videojob.api.replica import (
    COMPONENT_LABEL,
    DRAIN_ANNOTATION,
    POOL_LABEL,
    REPLICA_COMPONENT,
    REPLICA_LABEL,
    REPORT_ANNOTATION,
    ReplicaReport,
    lease_name,
)
from videojob.kube.client import LEASES, KubeClient, KubeError
from videojob.runner.clock import Clock
from videojob.runner.hold import Hold, Standing

Json = dict[str, Any]
log = logging.getLogger(__name__)

RENEWALS_PER_DURATION = 3
RETRIES_PER_DURATION = 15
STALLED_DURATIONS = 3
POLL_SECONDS = 1.0
"""Between looks at a Lease that somebody else holds."""


class Lease:
    """The Lease of one replica, as held by one runner process."""

    def __init__(
        self,
        kube: KubeClient,
        clock: Clock,
        *,
        namespace: str,
        pool: str,
        replica: str,
        identity: str,
        seconds: int,
        cut_off_seconds: int,
        pod_uid: str | None = None,
    ) -> None:
        """With `pod_uid` the Lease belongs to the pod called like the replica, and is collected with it."""
        self._kube = kube
        self._clock = clock
        self._namespace = namespace
        self._name = lease_name(pool, replica)
        self._labels = {POOL_LABEL: pool, REPLICA_LABEL: replica, COMPONENT_LABEL: REPLICA_COMPONENT}
        self._owner = [{"apiVersion": "v1", "kind": "Pod", "name": replica, "uid": pod_uid}] if pod_uid else []
        self._identity = identity
        self._seconds = seconds
        self._turned: float | None = None
        self._reported = ""
        self._changed = asyncio.Event()
        self.hold = Hold(seconds, cut_off_seconds, clock.monotonic)
        """How the runner stands."""
        self.order = 0
        """Times that the Lease has changed hands: of two runners of the replica the newer one has the higher."""
        self.drain_reason = ""
        """Why the replica is to hand back its jobs, where somebody asked for it on the Lease."""

    @property
    def stalled(self) -> bool:
        """Whether the Lease is being taken or kept, but nothing has moved for so long that nothing will.

        Every wait in there has a limit, also where the API server does not answer: so this is a defect of the process.
        """
        return self._turned is not None and self._clock.monotonic() - self._turned > STALLED_DURATIONS * self._seconds

    def report_changed(self) -> None:
        """Renew now, because the report has changed."""
        self._changed.set()

    async def take(self, report: Callable[[], ReplicaReport], *, wait_for_holder: bool) -> None:
        """Become the holder; with `wait_for_holder` only once another holder has let its Lease expire.

        However long the API server does not answer, or refuses. Raises nothing.
        """
        with self._turning():
            await self._take(report, wait_for_holder)

    async def _take(self, report: Callable[[], ReplicaReport], wait_for_holder: bool) -> None:
        seen: tuple[object, float] = (None, self._clock.monotonic())
        logged = ""
        while True:
            self._turn()
            try:
                lease = await self._read()
                if lease is None:
                    if await self._create(_json(report()), self.hold.take):
                        return
                    continue
                spec = lease.get("spec", {})
                holder = spec.get("holderIdentity") or self._identity
                if wait_for_holder and holder != self._identity:
                    if spec.get("renewTime") != seen[0]:
                        seen = (spec.get("renewTime"), self._clock.monotonic())
                    expires = seen[1] + spec.get("leaseDurationSeconds", self._seconds)
                    if self._clock.monotonic() < expires:
                        await asyncio.sleep(POLL_SECONDS)
                        continue
                if await self._replace(lease, _json(report()), self.hold.take):
                    return
            except (KubeError, TimeoutError) as error:
                if (why := _why(error)) != logged:
                    log.warning("Cannot take the Lease %s yet: %s", self._name, why)
                    logged = why
            await asyncio.sleep(POLL_SECONDS)

    async def keep(self, report: Callable[[], ReplicaReport], renewed: Callable[[], None]) -> None:
        """Renew until the Lease is lost (LeaseLostError), and call `renewed` each time."""
        with self._turning():
            await self._keep(report, renewed)

    async def _keep(self, report: Callable[[], ReplicaReport], renewed: Callable[[], None]) -> None:
        due, failed = self._clock.monotonic(), ""
        while True:
            self._turn()
            await self._wait(due - self._clock.monotonic())
            self.hold.check()
            text = _json(report())
            if text == self._reported and self._clock.monotonic() < due:
                continue
            try:
                await self._renew(text)
            except (KubeError, TimeoutError) as error:
                if (why := _why(error)) != failed:
                    log.warning("The Lease %s was not renewed; chunks are made and kept meanwhile: %s", self._name, why)
                    failed = why
                due = self._clock.monotonic() + self._seconds / RETRIES_PER_DURATION
                self._reported = ""
                await asyncio.sleep(self._seconds / RETRIES_PER_DURATION)
                continue
            self.hold.check()
            if failed:
                log.info("The Lease %s is renewed again.", self._name)
                failed = ""
            due = self._clock.monotonic() + self._seconds / RENEWALS_PER_DURATION
            renewed()

    async def leave(self) -> None:
        """Give the replica up, so that nobody has to wait until it expires. Raises nothing."""
        if self.hold.standing is Standing.LOST:
            return
        operations = [
            {"op": "test", "path": "/spec/holderIdentity", "value": self._identity},
            {"op": "remove", "path": "/spec/holderIdentity"},
        ]
        try:
            async with self._limit():
                await self._kube.json_patch(LEASES, self._name, operations, self._namespace)
        except (KubeError, TimeoutError) as error:
            log.warning("The Lease %s was not given up, and will expire: %s", self._name, _why(error))
        self.hold.lose("the replica was left")

    @contextmanager
    def _turning(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._turned = None

    def _turn(self) -> None:
        self._turned = self._clock.monotonic()

    async def _wait(self, seconds: float) -> None:
        """Wait until the report changes, or so long."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._changed.wait()
        except TimeoutError:
            pass
        self._changed.clear()

    async def _read(self) -> Json | None:
        try:
            async with self._limit():
                return await self._kube.get(LEASES, self._name, self._namespace)
        except KubeError as error:
            if error.not_found:
                return None
            raise

    async def _create(self, report: str, held: Callable[[float], None]) -> bool:
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": self._name,
                "labels": self._labels,
                "annotations": {REPORT_ANNOTATION: report},
                "ownerReferences": self._owner,
            },
            "spec": {**self._holder(), "leaseTransitions": self.order},
        }
        started = self._clock.monotonic()
        try:
            async with self._limit():
                lease = await self._kube.create(LEASES, body, self._namespace)
        except KubeError as error:
            if error.conflict:
                return False
            raise
        held(started)
        self._wrote(lease, report)
        return True

    async def _replace(self, lease: Json, report: str, held: Callable[[float], None]) -> bool:
        metadata, spec = lease["metadata"], lease.get("spec", {})
        metadata["labels"] = {**metadata.get("labels", {}), **self._labels}
        metadata["annotations"] = {**metadata.get("annotations", {}), REPORT_ANNOTATION: report}
        metadata["ownerReferences"] = self._owner or metadata.get("ownerReferences", [])
        transitions = spec.get("leaseTransitions", 0) + (spec.get("holderIdentity") != self._identity)
        body = {**lease, "metadata": metadata, "spec": {**self._holder(), "leaseTransitions": transitions}}
        started = self._clock.monotonic()
        try:
            async with self._limit():
                taken = await self._kube.replace(LEASES, self._name, body, self._namespace)
        except KubeError as error:
            if error.conflict or error.not_found:
                return False
            raise
        held(started)
        self._wrote(taken, report)
        return True

    async def _renew(self, report: str) -> None:
        """Renew. Raises KubeError and TimeoutError where that may still succeed; where it cannot, the hold is lost."""
        started = self._clock.monotonic()
        operations = [
            {"op": "test", "path": "/spec/holderIdentity", "value": self._identity},
            {"op": "add", "path": "/spec/renewTime", "value": _micro_time(self._clock.now())},
            {"op": "add", "path": f"/metadata/annotations/{_escaped(REPORT_ANNOTATION)}", "value": report},
        ]
        try:
            async with self._limit():
                lease = await self._kube.json_patch(LEASES, self._name, operations, self._namespace)
        except KubeError as error:
            if not (error.conflict or error.not_found):
                raise
            await self._retake(report)
            return
        self.hold.renew(started)
        self._wrote(lease, report)

    async def _retake(self, report: str) -> None:
        """The Lease is not as we left it: take it again, unless it is somebody else's now."""
        held = partial(self.hold.renew, seen=False)
        lease = await self._read()
        if lease is None:
            log.warning("The Lease %s was deleted, and is made anew.", self._name)
            retaken = await self._create(report, held)
        elif lease.get("spec", {}).get("holderIdentity") == self._identity:
            retaken = await self._replace(lease, report, held)
        else:
            self.hold.lose(f"another runner has taken the Lease {self._name}, or somebody has taken it away")
            return
        if not retaken:
            raise KubeError(409, "it was changed by somebody else at the same time")

    def _limit(self) -> asyncio.Timeout:
        return asyncio.timeout(self._seconds / RENEWALS_PER_DURATION)

    def _holder(self) -> Json:
        now = _micro_time(self._clock.now())
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": self._seconds,
            "acquireTime": now,
            "renewTime": now,
        }

    def _wrote(self, lease: Json, report: str) -> None:
        self._reported = report
        self.order = max(self.order, lease["spec"].get("leaseTransitions", 0))
        drain_reason = lease["metadata"].get("annotations", {}).get(DRAIN_ANNOTATION, "")
        if drain_reason != self.drain_reason:
            self.drain_reason = drain_reason
            self._changed.set()


def _why(error: Exception) -> str:
    return str(error) or "the API server does not answer in time"


def _json(report: ReplicaReport) -> str:
    return json.dumps(report.wire(), ensure_ascii=False, separators=(",", ":"))


def _escaped(key: str) -> str:
    """A key as a part of a JSON pointer."""
    return key.replace("~", "~0").replace("/", "~1")


def _micro_time(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
