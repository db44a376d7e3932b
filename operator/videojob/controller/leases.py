"""Replicas by their Leases, and who of them is alive.

A heartbeat is judged on our own monotonic clock since we last saw `renewTime` change, never by comparing the replica's
wall clock with ours. So a restarted operator gives every replica one whole lease duration before it calls it lost.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from pydantic import ValidationError

from videojob.api.replica import DRAIN_ANNOTATION, POOL_LABEL, REPLICA_LABEL, REPORT_ANNOTATION, ReplicaReport
from videojob.kube.client import Json
from videojob.planner.snapshot import Replica, ReplicaKey

logger = logging.getLogger(__name__)

DEFAULT_LEASE_SECONDS = 15


@dataclass
class Heartbeat:
    """A replica's Lease as last seen."""

    replica: Replica
    renew_time: str
    lease_seconds: float
    seen: float
    """When `renew_time` was first seen, in seconds of our monotonic clock."""

    def expires(self) -> float:
        """When the replica counts as lost, in seconds of our monotonic clock."""
        return self.seen + self.lease_seconds


class Leases:
    """The replicas' Leases; `changed` is called when a plan could come out differently, not for every renewal."""

    def __init__(self, monotonic: Callable[[], float], changed: Callable[[], None]) -> None:
        self._monotonic = monotonic
        self._changed = changed
        self._heartbeats: dict[ReplicaKey, Heartbeat] = {}
        self._names: dict[str, ReplicaKey] = {}

    def restore(self, leases: Iterable[Json]) -> None:
        """All Leases that exist; the others are gone."""
        leases = list(leases)
        for name in self._names.keys() - {lease["metadata"]["name"] for lease in leases}:
            self._remove(name)
        for lease in leases:
            self.apply(lease)

    def apply(self, lease: Json, deleted: bool = False) -> None:
        """A Lease was seen, or is gone. One that names no holder has been given up, and counts as gone."""
        metadata, spec = lease["metadata"], lease.get("spec", {})
        labels = metadata.get("labels", {})
        name, key = metadata["name"], ReplicaKey(labels.get(POOL_LABEL, ""), labels.get(REPLICA_LABEL, ""))
        if deleted or not spec.get("holderIdentity") or not all(key):
            self._remove(name)
            return
        annotations = metadata.get("annotations", {})
        drain_reason = annotations.get(DRAIN_ANNOTATION, "")
        replica = Replica(_report(name, annotations), True, bool(drain_reason), drain_reason)
        old = self._heartbeats.get(key)
        now = self._monotonic()
        renewed = old is None or old.renew_time != spec.get("renewTime", "")
        self._names[name] = key
        self._heartbeats[key] = Heartbeat(
            replica,
            spec.get("renewTime", ""),
            float(spec.get("leaseDurationSeconds", DEFAULT_LEASE_SECONDS)),
            now if renewed or old is None else old.seen,
        )
        if old is None or old.replica != replica or (renewed and old.expires() <= now):
            self._changed()

    def replicas(self) -> Mapping[ReplicaKey, Replica]:
        """Every replica that has a Lease, live or not."""
        now = self._monotonic()
        return {
            key: beat.replica if now < beat.expires() else replace(beat.replica, live=False)
            for key, beat in self._heartbeats.items()
        }

    def next_expiry(self) -> float | None:
        """Seconds until a replica that is live now counts as lost, if it does not renew its Lease."""
        now = self._monotonic()
        return min((beat.expires() - now for beat in self._heartbeats.values() if beat.expires() > now), default=None)

    def ages(self) -> Iterator[tuple[ReplicaKey, float]]:
        """Seconds since each replica's last heartbeat."""
        now = self._monotonic()
        return ((key, now - beat.seen) for key, beat in self._heartbeats.items())

    def _remove(self, name: str) -> None:
        key = self._names.pop(name, None)
        if key is not None and self._heartbeats.pop(key, None) is not None:
            self._changed()


def _report(name: str, annotations: Mapping[str, str]) -> ReplicaReport:
    """What the runner says; a replica whose report cannot be read takes no jobs, and says so on its pool."""
    try:
        return ReplicaReport.model_validate_json(annotations[REPORT_ANNOTATION])
    except KeyError:
        return ReplicaReport(slots=0, triton_error="The runner has not reported yet.")
    except ValidationError as error:
        logger.warning("Lease %s has a report that cannot be read: %s", name, error)
        return ReplicaReport(slots=0, triton_error=f"The annotation {REPORT_ANNOTATION} of Lease {name} is not valid.")
