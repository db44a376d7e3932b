"""The replica's Lease: its heartbeat, its report, and the runner's right to write.

A runner that could not renew for the Lease's duration has lost it, by its own monotonic clock, which runs on while the
process is stopped: the operator may have given its jobs away. Whoever takes the Lease writes its identity into it, so
the one before sees that it was replaced.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
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

Json = dict[str, Any]
log = logging.getLogger(__name__)

RENEWALS_PER_DURATION = 3
RETRIES_PER_DURATION = 15
STALLED_DURATIONS = 3
POLL_SECONDS = 1.0
"""Between looks at a Lease that somebody else holds."""


class LeaseLostError(Exception):
    """The replica is no longer ours; the text says why."""


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
        self._renewed: float | None = None
        self._reported = ""
        self._changed = asyncio.Event()
        self.drain_reason = ""
        """Why the replica is to hand back its jobs, where somebody asked for it on the Lease."""

    @property
    def age(self) -> float:
        """Seconds since the last renewal began; infinite where the Lease is not held."""
        return float("inf") if self._renewed is None else self._clock.monotonic() - self._renewed

    @property
    def held(self) -> bool:
        """Whether we may write: nobody can have taken the replica's jobs away since the last renewal."""
        return self.age < self._seconds

    @property
    def stalled(self) -> bool:
        """Whether the Lease is being taken or kept, but nothing has moved for so long that nothing will.

        Every wait in there has a limit, also where the API server does not answer: so this is a defect of the process.
        """
        return self._turned is not None and self._clock.monotonic() - self._turned > STALLED_DURATIONS * self._seconds

    def report_changed(self) -> None:
        """Renew now, because the report says something new."""
        self._changed.set()

    async def take(self, report: Callable[[], ReplicaReport], *, wait_for_holder: bool) -> None:
        """Become the holder; with `wait_for_holder` only once another holder has let its Lease expire.

        Transport errors are waited out. Raises KubeError only for refusals that will not pass.
        """
        with self._turning():
            await self._take(report, wait_for_holder)

    async def _take(self, report: Callable[[], ReplicaReport], wait_for_holder: bool) -> None:
        seen: tuple[object, float] = (None, self._clock.monotonic())
        while True:
            self._turn()
            try:
                lease = await self._read()
                if lease is None:
                    if await self._create(_json(report())):
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
                if await self._replace(lease, _json(report())):
                    return
            except KubeError as error:
                if not error.transient:
                    raise
                log.warning("Cannot take the Lease %s yet: %s", self._name, error)
            except TimeoutError:
                log.warning("Cannot take the Lease %s yet: the API server does not answer.", self._name)
            await asyncio.sleep(POLL_SECONDS)

    async def keep(self, report: Callable[[], ReplicaReport], renewed: Callable[[], None]) -> None:
        """Renew until the Lease is lost (LeaseLostError), and call `renewed` each time."""
        with self._turning():
            await self._keep(report, renewed)

    async def _keep(self, report: Callable[[], ReplicaReport], renewed: Callable[[], None]) -> None:
        due = self._clock.monotonic()
        while True:
            self._turn()
            await self._wait(due - self._clock.monotonic())
            if not self.held:
                self._renewed = None
                raise LeaseLostError(f"the Lease {self._name} could not be renewed for {self._seconds} s")
            text = _json(report())
            if text == self._reported and self._clock.monotonic() < due:
                continue
            try:
                await self._renew(text)
                due = self._clock.monotonic() + self._seconds / RENEWALS_PER_DURATION
                renewed()
                continue
            except KubeError as error:
                if error.conflict or error.not_found:
                    self._renewed = None
                    raise LeaseLostError(f"another runner has taken the Lease {self._name}") from error
                log.warning("The Lease %s was not renewed: %s", self._name, error)
            except TimeoutError:
                log.warning("The Lease %s was not renewed: the API server does not answer.", self._name)
            due = self._clock.monotonic() + self._seconds / RETRIES_PER_DURATION
            self._reported = ""
            await asyncio.sleep(self._seconds / RETRIES_PER_DURATION)

    async def leave(self) -> None:
        """Give the replica up, so that nobody has to wait until it expires. Raises nothing."""
        if not self.held:
            return
        operations = [
            {"op": "test", "path": "/spec/holderIdentity", "value": self._identity},
            {"op": "remove", "path": "/spec/holderIdentity"},
        ]
        try:
            async with self._limit():
                await self._kube.json_patch(LEASES, self._name, operations, self._namespace)
        except (KubeError, TimeoutError) as error:
            log.warning("The Lease %s was not given up, and will expire: %s", self._name, error)
        self._renewed = None

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

    async def _create(self, report: str) -> bool:
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": self._name,
                "labels": self._labels,
                "annotations": {REPORT_ANNOTATION: report},
                "ownerReferences": self._owner,
            },
            "spec": {**self._holder(), "leaseTransitions": 0},
        }
        started = self._clock.monotonic()
        try:
            async with self._limit():
                lease = await self._kube.create(LEASES, body, self._namespace)
        except KubeError as error:
            if error.conflict:
                return False
            raise
        self._held_since(started, lease, report)
        return True

    async def _replace(self, lease: Json, report: str) -> bool:
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
        self._held_since(started, taken, report)
        return True

    async def _renew(self, report: str) -> None:
        started = self._clock.monotonic()
        operations = [
            {"op": "test", "path": "/spec/holderIdentity", "value": self._identity},
            {"op": "add", "path": "/spec/renewTime", "value": _micro_time(self._clock.now())},
            {"op": "add", "path": f"/metadata/annotations/{_escaped(REPORT_ANNOTATION)}", "value": report},
        ]
        async with self._limit():
            lease = await self._kube.json_patch(LEASES, self._name, operations, self._namespace)
        self._held_since(started, lease, report)

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

    def _held_since(self, started: float, lease: Json, report: str) -> None:
        self._renewed = started
        self._reported = report
        drain_reason = lease["metadata"].get("annotations", {}).get(DRAIN_ANNOTATION, "")
        if drain_reason != self.drain_reason:
            self.drain_reason = drain_reason
            self._changed.set()


def _json(report: ReplicaReport) -> str:
    return json.dumps(report.wire(), ensure_ascii=False, separators=(",", ":"))


def _escaped(key: str) -> str:
    """A key as a part of a JSON pointer."""
    return key.replace("~", "~0").replace("/", "~1")


def _micro_time(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
