"""What must hold at every moment of a history, checked at each write to the API server and each chunk that is begun."""

from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.simulation.clock import BEGIN, Clock
from tests.simulation.model_store import Stores, committed
from tests.simulation.process import current
from videojob.api.reasons import Reason
from videojob.api.replica import DRAIN_ANNOTATION, POOL_LABEL, REPORT_ANNOTATION
from videojob.planner.removal import SCALE_DOWN
from videojob.planner.rules import DEFAULT_RULES

Json = dict[str, Any]
FINISHED = ("Succeeded", "Failed", "Cancelled")
SETTLED_SECONDS = 2.0
"""A record that was committed so long ago must have been seen by whoever begins a chunk.

Unless its process stood still, and went on less than that ago: it may have looked before.
"""
LEASE_SECONDS = 15.0
RESIZE_SECONDS = 60.0
"""So long after a pool's endpoint was made smaller its replica may hold as many jobs as before."""
_FROZEN = ("phase", "reason", "attempts", "failures", "losses", "output", "completionTime", "resolved", "storeURI")


@dataclass
class Ledger:
    """Observes, and notes what must not be."""

    clock: Clock
    stores: Stores
    outages: Callable[[], list[tuple[float, float]]]
    known: Callable[[], float]
    """As of when whoever writes knew the Leases when it sent the write."""
    trace: deque[str]
    faults: list[str] = field(default_factory=list)
    writes: Counter[str] = field(default_factory=Counter)
    """Writes of operators by job."""
    losses: Counter[str] = field(default_factory=Counter)
    remade: list[tuple[str, int]] = field(default_factory=list)
    """Chunks that were begun although their record was there."""
    begun: Counter[tuple[str, int]] = field(default_factory=Counter)
    all_writes: int = 0
    """Of anything but Leases, by anybody."""
    taken_back: dict[str, float] = field(default_factory=dict)
    """When each job was last taken from a replica that was lost."""
    jobs: dict[str, Json] = field(default_factory=dict)
    """Every job that ever was, by uid, as last seen."""
    _assigned: dict[tuple[str, int], tuple[str, str]] = field(default_factory=dict)
    _renewed: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    _reports: dict[str, str] = field(default_factory=dict)
    _reports_before: dict[str, str] = field(default_factory=dict)
    _sizes: dict[str, list[tuple[float, int]]] = field(default_factory=lambda: defaultdict(list))
    _per_pod: dict[str, int] = field(default_factory=dict)
    """Jobs that each replica of a managed pool takes."""
    _gone: set[str] = field(default_factory=set)
    """Replicas whose pod is gone, or on its way."""
    _held: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def note(self, text: str) -> None:
        """One more event of the trace."""
        self.trace.append(f"{self.clock.monotonic():9.3f} {text}")

    def fault(self, text: str) -> None:
        """Something that must not be."""
        self.note(f"FAULT: {text}")
        self.faults.append(f"{self.clock.monotonic():.3f} s: {text}")

    def chunk_begun(self, uid: str, index: int, attempt: int) -> None:
        """A runner begins to make a chunk."""
        self.note(f"chunk {index} of {uid} is begun in attempt {attempt}")
        self.begun[uid, index] += 1
        job = self.jobs[uid]
        uri = job.get("status", {}).get("storeURI", "")
        namespace = job["metadata"]["namespace"]
        bucket = self.stores.open(uri.removesuffix(f"/{namespace}/{uid}"))
        when = committed(bucket, f"{namespace}/{uid}").get(index)
        process, settled = current(), self.clock.monotonic() - SETTLED_SECONDS
        if when is not None and when < settled and (process is None or process.resumed < settled):
            self.remade.append((uid, index))
            self.fault(f"chunk {index} of {uid} is made again, {self.clock.monotonic() - when:.1f} s after its commit")

    def changed(self, plural: str, old: Json | None, new: Json | None, who: str) -> None:
        """An object of the API server has changed."""
        if plural == "leases":
            self._lease(old, new)
            return
        self.all_writes += 1
        if plural == "videojobs":
            self._job(old, new, who)
            return
        body = new or old or {}
        self.note(f"{who}: {plural} {body['metadata']['name']} has changed")
        if plural == "gpupools" and new is not None:
            self._pool(new)
        if plural == "pods" and (new is None or "deletionTimestamp" in new["metadata"]):
            self._gone.add(f"{body['metadata']['labels'][POOL_LABEL]}.{body['metadata']['name']}")

    def removed(self, replica: str, *, ready: bool) -> None:
        """Kubernetes chooses this pod, because there are too many; those that are not ready go whatever they cost."""
        if ready and self._held[replica]:
            self.fault(f"the pod of {replica} goes, which holds {sorted(self._held[replica])}")

    def _lease(self, old: Json | None, new: Json | None) -> None:
        if new is None:
            return
        drains = [
            ((body or {}).get("metadata", {}).get("annotations") or {}).get(DRAIN_ANNOTATION) for body in (old, new)
        ]
        if drains[1] == SCALE_DOWN != drains[0] and self._held[new["metadata"]["name"]]:
            held = sorted(self._held[new["metadata"]["name"]])
            self.fault(f"{new['metadata']['name']} is to leave a pool that shrinks, and holds {held}")
        name, spec = new["metadata"]["name"], new.get("spec") or {}
        text = str(spec.get("renewTime"))
        if self._reports_before.get(f"{name} renewTime") != text:
            self._reports_before[f"{name} renewTime"] = text
            self._renewed[name].append(self.clock.monotonic())
            self._reports_before[name] = self._reports.get(name, "")
            self._reports[name] = (new["metadata"].get("annotations") or {}).get(REPORT_ANNOTATION, "")

    def _pool(self, new: Json) -> None:
        spec = new.get("spec") or {}
        now, pool = self.clock.monotonic(), new["metadata"]["name"]
        if "jobsPerReplica" in spec:
            self._per_pod[pool] = spec["jobsPerReplica"]
            return
        there = {one["name"]: one["maxJobs"] for one in spec.get("endpoints", ()) if isinstance(one, dict)}
        for name in {key.split(".")[1] for key in self._sizes if key.startswith(f"{pool}.")} | there.keys():
            self._sizes[f"{pool}.{name}"].append((now, there.get(name, 0)))

    def _job(self, old: Json | None, new: Json | None, who: str) -> None:
        body = new or old
        assert body is not None
        uid = body["metadata"]["uid"]
        self.jobs[uid] = body
        if who.startswith("operator"):
            self.writes[uid] += 1
        if new is None:
            self._held_by(uid, None)
            self.note(f"{who}: {uid} is gone")
            return
        before: Json = (old or {}).get("status") or {}
        after: Json = new.get("status") or {}
        self._note_changes(who, uid, before, after)
        if before.get("phase") in FINISHED:
            changed = [key for key in _FROZEN if before.get(key) != after.get(key)]
            if changed:
                self.fault(f"{uid}, which is {before['phase']}, has changed: {changed}")
        self._assignment(uid, before, after, who)
        self._counted(uid, before, after, who)
        if after.get("phase") in FINISHED and before.get("phase") != after["phase"]:
            self._ended(new, after)

    def _note_changes(self, who: str, uid: str, before: Json, after: Json) -> None:
        keys = ("phase", "reason", "attempts", "failures", "losses", "handBacks", "assignment")
        news = {key: after.get(key) for key in keys if before.get(key) != after.get(key)}
        if news:
            self.note(f"{who}: {uid} {news}")

    def _assignment(self, uid: str, before: Json, after: Json, who: str) -> None:
        was, now = before.get("assignment"), after.get("assignment")
        holder = (now["pool"], now["replica"]) if now else None
        self._held_by(uid, holder if after.get("phase") not in FINISHED else None)
        attempts, step = after.get("attempts", 0), after.get("attempts", 0) - before.get("attempts", 0)
        if step not in (0, 1) or (step == 1 and (was is not None or now is None)):
            self.fault(f"{uid}: attempts went from {before.get('attempts')} to {attempts}, {was} to {now}")
        if holder is not None:
            known = self._assigned.setdefault((uid, attempts), holder)
            if known != holder or (was is None and step == 0):
                self.fault(f"attempt {attempts} of {uid} is assigned twice: to {known} and to {holder}")
        if was is None and holder is not None:
            if not who.startswith("operator"):
                self.fault(f"{who} has assigned {uid}")
            self._over_committed(".".join(holder))
            self._wanted(uid)
        if who.startswith("runner") and was is not None:
            replica = f"{was['pool']}.{was['replica']}"
            if not who.startswith(f"runner-{replica}."):
                self.fault(f"{who} has written to {uid}, which {replica} holds")

    def _wanted(self, uid: str) -> None:
        """A decision that was stale when it was carried out assigns what nobody wants any more."""
        metadata, spec = self.jobs[uid]["metadata"], self.jobs[uid]["spec"]
        if spec.get("suspend") or spec.get("cancel") or "deletionTimestamp" in metadata:
            self.fault(f"{uid} is assigned although it is to be suspended, cancelled or deleted")

    def _held_by(self, uid: str, holder: tuple[str, str] | None) -> None:
        for held in self._held.values():
            held.discard(uid)
        if holder is not None:
            self._held[".".join(holder)].add(uid)

    def _over_committed(self, replica: str) -> None:
        now, sizes = self.clock.monotonic(), self._sizes[replica]
        current = sizes[-1][1] if sizes else self._per_pod.get(replica.partition(".")[0], 0)
        recent = [size for index, (_, size) in enumerate(sizes[:-1]) if sizes[index + 1][0] > now - RESIZE_SECONDS]
        if len(self._held[replica]) > max([current, *recent]):
            self.fault(f"{replica} holds {sorted(self._held[replica])}, and takes {current} jobs")

    def _counted(self, uid: str, before: Json, after: Json, who: str) -> None:
        lost = after.get("losses", 0) - before.get("losses", 0)
        failed = after.get("failures", 0) - before.get("failures", 0)
        if lost not in (0, 1) or failed not in (0, 1):
            self.fault(f"{uid}: losses {lost:+}, failures {failed:+} in one write")
        if lost == 1 and who.startswith("operator"):
            self.losses[uid] += 1
            self.taken_back[uid] = self.clock.monotonic()
            was = before["assignment"]
            self._lost(uid, f"{was['pool']}.{was['replica']}", before.get("attempts", 0))

    def _lost(self, uid: str, replica: str, attempt: int) -> None:
        """A loss is true where the Lease stood still while the API server was there, or no report named the job.

        It is judged by what the operator knew when it sent the write. No write to a job can depend on a Lease, so a
        runner that comes back while the write is on its way, or what led to it, has lost the job all the same.
        """
        if replica in self._gone:
            return
        now, known = self.clock.monotonic(), self.known()
        renewed = max([moment for moment in self._renewed[replica] if moment <= known], default=0.0)
        # What is shorter is no gap: a runner that lives renews within its Lease all the same.
        gaps = [(begin, end) for begin, end in self.outages() if end - begin > DEFAULT_RULES.contact_gap_seconds]
        back = max([end for begin, end in gaps if begin < now and end > renewed], default=renewed)
        if min(known - renewed, now - back) >= LEASE_SECONDS - 1.0:
            return
        named = f'"uid": "{uid}", "attempt": {attempt}'
        if not any(named in reports.get(replica, "") for reports in (self._reports, self._reports_before)):
            return
        self.fault(f"{uid} is taken from {replica}, which renewed its Lease {now - renewed:.1f} s ago and names it")

    def _ended(self, job: Json, after: Json) -> None:
        spec, uid, reason = job["spec"], job["metadata"]["uid"], after.get("reason")
        phase = after["phase"]
        if after.get("assignment"):
            self.fault(f"{uid} has ended as {phase} and is still assigned")
        if phase == "Cancelled" and not spec.get("cancel"):
            self.fault(f"{uid} is Cancelled, and nobody asked for it")
        if phase == "Succeeded":
            self._has_output(job, after)
        if phase == "Failed":
            truths: dict[str | None, bool] = {
                Reason.BACKOFF_LIMIT_EXCEEDED: after.get("failures", 0) > spec.get("backoffLimit", 3),
                Reason.DEADLINE_EXCEEDED: self._overdue(spec, after),
            }
            if not truths.get(reason, False):
                self.fault(f"{uid} has failed as {reason}, which is not so: {after.get('failures')} failures")

    def _overdue(self, spec: Json, after: Json) -> bool:
        seconds, began = spec.get("activeDeadlineSeconds"), after.get("startTime")
        if seconds is None or began is None:
            return False
        elapsed = self.clock.monotonic() - (datetime.fromisoformat(began) - BEGIN).total_seconds()
        return bool(elapsed >= seconds - 6.0)

    def _has_output(self, job: Json, after: Json) -> None:
        uid, uri = job["metadata"]["uid"], after["output"]["uri"]
        there = any(f"{url}/{key}" == uri for url, bucket in self.stores.buckets.items() for key in bucket.objects)
        if not there:
            self.fault(f"{uid} is Succeeded, and {uri} is not in the store")
