"""Which replicas are alive, as far as the operator can know. Silence is not death.

A heartbeat is judged on the operator's own monotonic clock since it last saw `renewTime` change, never by comparing
the replica's wall clock with its own. A replica that is silent for a Lease's length is *silent*; it is *lost* only
when that silence has no other explanation:

- the API server has answered the operator for a whole Lease's length without a gap, so that the replica, which renews
  three times in a Lease's length, could have renewed its Lease as well;
- a listing of all Leases that was sent after the expiry, and not on the watch's connection, still shows the old
  `renewTime`: the watch was not merely late;
- not too many fall silent together. Where over 55 % of a pool's replicas are silent, their network is a likelier
  cause than their death: they are declared lost at a bounded rate (as Kubernetes' node lifecycle controller evicts
  from a zone that is disrupted).
"""

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil

from videojob.planner.facts import Health, Replica, ReplicaKey

DEFAULT_LEASE_SECONDS = 15.0
MASS_SHARE = 0.55
"""Of a pool's replicas: more than that silent together is a disruption."""
MASS_LEAST = 4
"""Replicas of a pool below which its silence is never taken for a disruption."""
MASS_RATE = 0.05
"""Share of a pool's replicas that may be declared lost within one Lease's length during a disruption."""


class Contact:
    """Since when the API server answers without a gap.

    Something is asked of it every few seconds in any case: the leader renews its Lease.
    """

    def __init__(self, gap_seconds: float) -> None:
        """`gap_seconds` without an answer are a gap."""
        self._gap_seconds = gap_seconds
        self._since: float | None = None
        self._last = 0.0

    def answered(self, at: float) -> None:
        """The API server has answered."""
        if self._since is None or at - self._last > self._gap_seconds:
            self._since = at
        self._last = max(self._last, at)

    def failed(self) -> None:
        """The API server has not answered, or answered that it cannot."""
        self._since = None

    def steady_seconds(self, now: float) -> float:
        """For how long it has answered without a gap, until now."""
        if self._since is None or now - self._last > self._gap_seconds:
            return 0.0
        return now - self._since


@dataclass(frozen=True, slots=True)
class Beat:
    """A replica's Lease as last seen; without a replica where it has none."""

    replica: Replica | None
    name: str = ""
    """Of the Lease."""
    renew_time: str = ""
    seconds: float = DEFAULT_LEASE_SECONDS
    seen: float = 0.0
    """When `renew_time`, or that there is no Lease, was first seen, in monotonic seconds."""
    confirmed: float | None = None
    """When the latest listing was sent that still showed this `renew_time`."""
    left: bool = False
    """Its runner has given the Lease up, or its pod is gone: that is known, not inferred from silence."""
    holder: str = ""
    """Identity of the runner."""

    @property
    def expires(self) -> float:
        """When the replica becomes silent."""
        return self.seen + self.seconds


class Liveness:
    """The heartbeats of all replicas."""

    def __init__(self, contact: Contact) -> None:
        self.contact = contact
        self.beats: dict[ReplicaKey, Beat] = {}
        self._lost: dict[ReplicaKey, Beat] = {}
        self._losses: dict[str, list[float]] = {}
        """Moments of the latest losses during a disruption, by pool."""

    def put(self, key: ReplicaKey, beat: Beat) -> bool:
        """A Lease was seen; whether anything but its renewal is new."""
        old = self.beats.get(key)
        if old is not None and (old.renew_time, old.replica is None) == (beat.renew_time, beat.replica is None):
            beat = replace(beat, seen=old.seen, confirmed=old.confirmed)
        self.beats[key] = beat
        if old is not None and key in self._lost and old.renew_time != beat.renew_time:
            del self._lost[key]
            return True
        return old is None or old.replica != beat.replica or old.left != beat.left

    def drop(self, key: ReplicaKey, now: float, *, left: bool) -> None:
        """The replica has no Lease; `left` where it is known to be gone for good."""
        old = self.beats.get(key)
        if old is not None and old.replica is None:
            self.beats[key] = replace(old, left=old.left or left)
        else:
            seconds = old.seconds if old is not None else DEFAULT_LEASE_SECONDS
            self.beats[key] = Beat(None, seconds=seconds, seen=now, left=left)

    def forget_all_but(self, held: Container[ReplicaKey]) -> None:
        """Of replicas without a Lease, only those that hold a job matter."""
        for key in [key for key, beat in self.beats.items() if beat.replica is None and key not in held]:
            del self.beats[key]
            self._lost.pop(key, None)

    def expect(self, key: ReplicaKey, now: float) -> None:
        """A job names a replica of which nothing was ever seen: from now on its silence counts."""
        if key not in self.beats:
            self.beats[key] = Beat(None, seen=now)

    def listed(self, sent: float, seen: Mapping[ReplicaKey, str]) -> None:
        """A consistent listing that was sent then showed these `renewTime`s, and no other Lease."""
        for key, beat in self.beats.items():
            if seen.get(key) == (beat.renew_time if beat.replica is not None else None):
                self.beats[key] = replace(beat, confirmed=sent)

    def silent(self, now: float) -> Iterator[ReplicaKey]:
        """Replicas without a renewal for a Lease's length that are not declared lost."""
        return (
            key for key, beat in self.beats.items() if not beat.left and now >= beat.expires and key not in self._lost
        )

    def unconfirmed(self, now: float) -> bool:
        """Whether a listing of the Leases is due: somebody would be lost but for that."""
        return any(self._suspected(key, now) and not self._confirmed(key) for key in self.silent(now))

    def declare(self, now: float) -> None:
        """Declare those lost whose silence nothing else explains any more."""
        silent: dict[str, list[ReplicaKey]] = {}
        for key in self.silent(now):
            silent.setdefault(key.pool, []).append(key)
        for pool, keys in silent.items():
            due = [key for key in sorted(keys) if self._suspected(key, now) and self._confirmed(key)]
            for key in due[: self._allowed(pool, len(keys), now)]:
                self._lost[key] = self.beats[key]
                self._losses.setdefault(pool, []).append(now)

    def health(self, key: ReplicaKey, now: float) -> Health:
        """What is known of the replica's heartbeat."""
        beat = self.beats.get(key)
        if beat is None:
            return Health.SILENT
        if beat.left or key in self._lost:
            return Health.LOST
        return Health.SILENT if beat.replica is None or now >= beat.expires else Health.LIVE

    def next_change(self, now: float) -> float | None:
        """Seconds until time alone may change what is known of a replica; None where it cannot."""
        moments = [beat.expires for key, beat in self.beats.items() if beat.expires > now and not beat.left]
        for key in self.silent(now):
            beat = self.beats[key]
            wait = beat.seconds - self.contact.steady_seconds(now)
            moments.append(now + (wait if wait > 0 else beat.seconds / 10))
        return min((moment - now for moment in moments), default=None)

    def ages(self, now: float) -> Iterable[tuple[ReplicaKey, float]]:
        """Seconds since each replica's last heartbeat."""
        return ((key, now - beat.seen) for key, beat in self.beats.items() if beat.replica is not None)

    def _suspected(self, key: ReplicaKey, now: float) -> bool:
        return self.contact.steady_seconds(now) >= self.beats[key].seconds

    def _confirmed(self, key: ReplicaKey) -> bool:
        beat = self.beats[key]
        return beat.confirmed is not None and beat.confirmed >= beat.expires

    def _allowed(self, pool: str, silent: int, now: float) -> int:
        """How many silent replicas of a pool may be declared lost now."""
        known = [beat for key, beat in self.beats.items() if key.pool == pool and not beat.left]
        total = len(known) - sum(key.pool == pool for key in self._lost)
        if total < MASS_LEAST or silent <= MASS_SHARE * total:
            self._losses.pop(pool, None)
            return silent
        window = max(beat.seconds for beat in known)
        recent = self._losses[pool] = [moment for moment in self._losses.get(pool, []) if moment > now - window]
        return max(0, max(1, ceil(MASS_RATE * len(known))) - len(recent))
