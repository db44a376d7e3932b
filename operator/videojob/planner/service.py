"""Whether a store or a replica worked for one job while it failed for another: only then is the job to blame."""

from collections.abc import Hashable
from datetime import datetime
from typing import NamedTuple

from videojob.api.reasons import OF_REPLICA, Reason
from videojob.planner.facts import Job, ReplicaKey


class ServedJob(NamedTuple):
    """A job that had progress."""

    uid: str
    at: datetime


class Service:
    """The last two jobs with progress, by whatever served them."""

    def __init__(self) -> None:
        self._last: dict[Hashable, tuple[ServedJob, ...]] = {}

    def put(self, server: Hashable, uid: str, at: datetime) -> None:
        """The server has served the job: a chunk of it was committed."""
        others = (served for served in self._last.get(server, ()) if served.uid != uid)
        self._last[server] = (ServedJob(uid, at), *others)[:2]

    def served_other(self, server: Hashable, uid: str, since: datetime) -> bool:
        """Whether another job was served at that moment or later."""
        return any(served.uid != uid and served.at >= since for served in self._last.get(server, ()))


class Departure(NamedTuple):
    """How a job has left a replica."""

    replica: ReplicaKey
    began: datetime
    """When it was assigned there."""
    reason: str
    failures: int
    """Of the job when it left: they rise where this departure counts."""


class Departures:
    """How jobs have left the last two replicas that handed them back in a row, because of store or Triton."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[Departure, ...]] = {}

    def put(self, old: Job | None, new: Job) -> None:
        """A job was like `old`, if it was known, and is like `new`."""
        if new.phase.finished or not new.hand_backs:
            self.drop(new.uid)
        elif new.replica_key is None and old is not None and old.replica_key is not None:
            left = Departure(old.replica_key, old.since, new.reason, new.failures)
            self._last[new.uid] = (*self._last.get(new.uid, ()), left)[-2:]

    def drop(self, uid: str) -> None:
        """The job does not exist any more."""
        self._last.pop(uid, None)

    def served_another(self, job: Job, service: Service) -> bool:
        """Whether the store, or the replica, that handed the job back has served another job meanwhile.

        A replica of one slot can do so only once the job has left. So the replica before the last one is looked at as
        well, if the job's return from there has not counted. A disk that is full for this video may serve others, and
        that is no fault of the job.
        """
        last = self._last.get(job.uid, ())
        return any(
            service.served_other(one.replica, job.uid, one.began)
            if one.reason in OF_REPLICA
            else one is last[-1] and service.served_other(one.replica.pool, job.uid, one.began)
            for one in last
            if one.failures == job.failures and one.reason != Reason.DISK_UNAVAILABLE
        )
