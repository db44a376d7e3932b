"""Which of several operators writes: the holder of a Lease.

The official client's election is not used: it measures its renew deadline on the wall clock, puts no time limit on a
request (one that hangs keeps a lost leader leading), ends on any error that is not an HTTP status, and never releases.

Rules, as in client-go: a follower takes the Lease when it has not seen it change for its whole duration, on its own
monotonic clock, or when it was released; every write is fenced by the resource version. The leader counts from the
moment before it sent the renewal that succeeded, and stops leading `renew_deadline_seconds` later: sooner than anyone
may take over, because the follower began to count no earlier and waits for longer.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from videojob.kube.client import LEASES, Json, KubeClient, KubeError

logger = logging.getLogger(__name__)

LEASE_NAME = "videojob-operator"
RETRY_SECONDS = 0.5


@dataclass
class _Seen:
    """What the Lease said, and when that was first seen."""

    content: tuple[str, str]
    """Holder and renewTime."""
    at: float


class Election:
    """Takes part in the election. `leading` is true only while nobody else can lead."""

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        identity: str,
        *,
        lease_seconds: float,
        renew_deadline_seconds: float,
        renew_seconds: float,
        monotonic: Callable[[], float],
        started: Callable[[], None],
        stopped: Callable[[], None],
    ) -> None:
        """`started` and `stopped` are called when this operator begins and ceases to lead."""
        self._client = client
        self._namespace = namespace
        self._identity = identity
        self._lease_seconds = lease_seconds
        self._deadline_seconds = renew_deadline_seconds
        self._renew_seconds = renew_seconds
        self._monotonic = monotonic
        self._started = started
        self._stopped = stopped
        self._held_until: float | None = None
        self._seen: _Seen | None = None

    @property
    def leading(self) -> bool:
        """Whether this operator may write now."""
        return self._held_until is not None and self._monotonic() < self._held_until

    async def run(self) -> None:
        """Follow and lead, until cancelled."""
        while True:
            began = self._monotonic()
            limit = self._deadline_seconds if self._held_until is None else max(self._held_until - began, 0.01)
            try:
                async with asyncio.timeout(limit):
                    held = await self._try()
            except (KubeError, TimeoutError) as error:
                logger.warning("The leader's Lease cannot be read or written: %s", str(error) or "no answer in time")
                held = None
            if held:
                self._lead(began + self._deadline_seconds)
            elif held is False or not self.leading:
                self._follow()
            await asyncio.sleep(self._pause(held))

    async def release(self) -> None:
        """Give the Lease up, so that another operator need not wait for it to expire."""
        if self._held_until is None:
            return
        self._follow()
        try:
            async with asyncio.timeout(self._deadline_seconds):
                lease = await self._client.get(LEASES, LEASE_NAME, self._namespace)
                if lease["spec"].get("holderIdentity") == self._identity:
                    lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}
                    await self._client.replace(LEASES, LEASE_NAME, lease, self._namespace)
        except (KubeError, TimeoutError) as error:
            logger.warning("The leader's Lease was not released, and will expire: %s", error)

    async def _try(self) -> bool | None:
        """Renew or take the Lease: True if it is ours now, False if another's, None where a write met a conflict."""
        try:
            lease = await self._client.get(LEASES, LEASE_NAME, self._namespace)
        except KubeError as error:
            if not error.not_found:
                raise
            lease = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": LEASE_NAME, "namespace": self._namespace},
                "spec": {"leaseTransitions": 0},
            }
        spec = lease["spec"]
        holder = spec.get("holderIdentity") or ""
        if holder not in ("", self._identity) and not self._expired(spec):
            return False
        if holder != self._identity:
            spec["acquireTime"] = _now()
            spec["leaseTransitions"] = spec.get("leaseTransitions", 0) + 1
        spec |= {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._lease_seconds)),
            "renewTime": _now(),
        }
        try:
            if "resourceVersion" in lease["metadata"]:
                await self._client.replace(LEASES, LEASE_NAME, lease, self._namespace)
            else:
                await self._client.create(LEASES, lease, self._namespace)
        except KubeError as error:
            if error.conflict:
                return None
            raise
        return True

    def _expired(self, spec: Json) -> bool:
        content = (spec.get("holderIdentity") or "", spec.get("renewTime") or "")
        now = self._monotonic()
        if self._seen is None or self._seen.content != content:
            self._seen = _Seen(content, now)
        return now - self._seen.at >= float(spec.get("leaseDurationSeconds") or self._lease_seconds)

    def _lead(self, until: float) -> None:
        fresh = self._held_until is None
        self._held_until = until
        if fresh:
            logger.info("This operator leads now (%s).", self._identity)
            self._started()

    def _follow(self) -> None:
        if self._held_until is not None:
            self._held_until = None
            logger.info("This operator does not lead any more (%s).", self._identity)
            self._stopped()

    def _pause(self, held: bool | None) -> float:
        """Until the next try: sooner where a leader could not renew, and never beyond the end of its time."""
        if self._held_until is None:
            return self._renew_seconds
        left = max(self._held_until - self._monotonic(), 0.0)
        return min(self._renew_seconds if held else RETRY_SECONDS, left)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
