"""What dashboards see of the operator. Labels are namespace, queue, pool, replica: never a job, a user or a prompt."""

from collections import Counter as PyCounter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from videojob import __version__
from videojob.api.reasons import Reason
from videojob.api.videojob import VideoJob
from videojob.kube.client import ResourceKind
from videojob.planner.book import Book
from videojob.planner.decisions import Decision
from videojob.planner.facts import Job

QUEUE_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 60, 180, 600, 1800, 3600, 10800, 36000, 86400)
WRITE_SECONDS = (0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60)
COLD_START_SECONDS = (5, 10, 20, 40, 60, 120, 240, 480, 900, 1800, 3600, 7200)
PLANNING_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)
LAG_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 3, 10, 30)


class OperatorMetrics:
    """The operator's metrics. Time in queue is counted from a job's creation to its first assignment."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        ProcessCollector(registry=registry)
        self._queue_seconds = Histogram(
            "videojob_queue_seconds",
            "Seconds from a job's creation to its first assignment.",
            ("namespace", "queue", "pool"),
            buckets=QUEUE_SECONDS,
            registry=registry,
        )
        self._assignments = Counter(
            "videojob_assignments_total", "Jobs given to a replica.", ("namespace", "queue", "pool"), registry=registry
        )
        self.retries = Counter(
            "videojob_retries_total",
            "Attempts after one that failed.",
            ("namespace", "queue", "pool"),
            registry=registry,
        )
        self.reassignments = Counter(
            "videojob_reassignments_total",
            "Jobs taken from a replica whose heartbeat expired, by the reason that they were left with.",
            ("pool", "reason"),
            registry=registry,
        )
        self.planning_seconds = Histogram(
            "videojob_operator_planning_seconds",
            "Seconds that one plan takes.",
            buckets=PLANNING_SECONDS,
            registry=registry,
        )
        self.watch_events = Counter(
            "videojob_operator_watch_events_total",
            "Events of watches, by kind and type.",
            ("kind", "type"),
            registry=registry,
        )
        self.missed_changes = Counter(
            "videojob_operator_missed_changes_total",
            "Changes that an audit found and the watch had not brought.",
            ("kind",),
            registry=registry,
        )
        self._audits_failed = Counter(
            "videojob_operator_audits_failed_total",
            "Comparisons of what is known with the API server that could not be made.",
            ("kind",),
            registry=registry,
        )
        self.api_writes = Counter(
            "videojob_operator_api_writes_total",
            "API writes by verb, kind and HTTP code (0: no answer).",
            ("verb", "kind", "code"),
            registry=registry,
        )
        self.events_dropped = Counter(
            "videojob_operator_events_dropped_total", "Kubernetes Events that were not posted.", registry=registry
        )
        self.orphans = Gauge(
            "videojob_orphaned_prefixes", "Deleted jobs whose files are still in a store.", registry=registry
        )
        self.sweeps = Gauge(
            "videojob_prefixes_to_sweep",
            "Prefixes that wait to be swept of what a runner that has lost its job may still add.",
            registry=registry,
        )
        self.unreadable_orphans = Gauge(
            "videojob_orphans_unreadable",
            "Entries of the list of orphaned files that cannot be read, and are left alone.",
            registry=registry,
        )
        self.leader = Gauge("videojob_operator_leader", "1 while this operator leads.", registry=registry)
        Gauge("videojob_operator_build_info", "1, with the version.", ("version",), registry=registry).labels(
            __version__
        ).set(1)

        self.api_write_seconds = Histogram(
            "videojob_operator_api_write_seconds",
            "Seconds that API writes take, by verb and kind.",
            ("verb", "kind"),
            buckets=WRITE_SECONDS,
            registry=registry,
        )
        self.plan_lag_seconds = Histogram(
            "videojob_operator_plan_lag_seconds",
            "Seconds from a change to the plan that takes account of it.",
            buckets=PLANNING_SECONDS,
            registry=registry,
        )
        self.loop_lag_seconds = Histogram(
            "videojob_operator_loop_lag_seconds",
            "Seconds that the event loop was blocked, garbage collection included; looked at every 10 ms.",
            buckets=LAG_SECONDS,
            registry=registry,
        )
        self.loop_busy_seconds = Histogram(
            "videojob_operator_loop_busy_seconds",
            "CPU seconds of the event loop between two looks; far below its lag, the operator lacks CPU.",
            buckets=LAG_SECONDS,
            registry=registry,
        )
        self.watch_reconnects = Counter(
            "videojob_operator_watch_reconnects_total",
            "Watches that had to list everything again, by kind.",
            ("kind",),
            registry=registry,
        )
        self.watch_failures = Counter(
            "videojob_operator_watch_failures_total",
            "Watches that broke or could not be begun, by kind and HTTP code (0: no answer).",
            ("kind", "code"),
            registry=registry,
        )
        self.scalings = Counter(
            "videojob_pool_scalings_total",
            "Changes of a pool's number of replicas, up or down.",
            ("pool", "direction"),
            registry=registry,
        )
        self.cold_start_seconds = Histogram(
            "videojob_pool_cold_start_seconds",
            "Seconds from a pod's creation to its first ready model.",
            ("pool",),
            buckets=COLD_START_SECONDS,
            registry=registry,
        )
        self.plan_failures = Counter(
            "videojob_operator_plan_failures_total",
            "Plans, or parts of one, that ended in an error; cycle, or the kind of the object to blame.",
            ("part",),
            registry=registry,
        )
        self._restarts = Counter(
            "videojob_operator_part_restarts_total",
            "Parts of the operator that ended in an error and were started again.",
            ("part",),
            registry=registry,
        )
        self._decisions_failed = Counter(
            "videojob_operator_decisions_failed_total",
            "Decisions that were not carried out, by what stood in the way: conflict, refused, store or error.",
            ("decision", "outcome"),
            registry=registry,
        )
        self._gpu_seconds = Counter(
            "videojob_gpu_seconds_total",
            "Accelerator time of jobs that have ended, by stage.",
            ("namespace", "queue", "model", "stage"),
            registry=registry,
        )
        self._video_seconds = Counter(
            "videojob_video_seconds_total",
            "Seconds of video of jobs that have succeeded.",
            ("namespace", "queue", "model"),
            registry=registry,
        )
        self._ended = Counter(
            "videojob_jobs_ended_total",
            "Jobs that have ended, by phase and reason.",
            ("namespace", "queue", "phase", "reason"),
            registry=registry,
        )

    def pool_seen(self, pool: str) -> None:
        """A pool is there: a counter that is born with its first event hides that one from `increase()`."""
        for direction in ("up", "down"):
            self.scalings.labels(pool, direction)
        self.reassignments.labels(pool, Reason.REPLICA_LOST.value)

    def leads(self) -> None:
        """Leadership was acquired."""
        self.leader.set(1)

    def follows(self) -> None:
        """Leadership was lost."""
        self.leader.set(0)

    def part_failed(self, part: str) -> None:
        """A part of the operator ended in an error."""
        self._restarts.labels(part).inc()

    def shell_restarted(self, reason: str) -> None:
        """The watches that come through kopf are begun again."""
        self._restarts.labels("kopf").inc()

    def missed(self, kind: ResourceKind, count: int) -> None:
        """An audit made good so many changes that the watch of a kind had missed."""
        self.missed_changes.labels(kind.plural).inc(count)

    def audit_failed(self, kind: ResourceKind) -> None:
        """An audit of a kind could not be made."""
        self._audits_failed.labels(kind.plural).inc()

    def cold_started(self, pool: str, seconds: float) -> None:
        """A pod of the pool took so long from its creation to being ready."""
        self.cold_start_seconds.labels(pool).observe(seconds)

    def decision_failed(self, decision: Decision, outcome: str) -> None:
        """A decision was not carried out."""
        self._decisions_failed.labels(type(decision).__name__, outcome).inc()

    def ended(self, job: VideoJob) -> None:
        """A job has come to its end."""
        labels = (job.metadata.namespace, job.spec.queue_name)
        self._ended.labels(*labels, job.status.phase.value, job.status.reason or "").inc()
        if job.status.cost is not None:
            seconds = job.status.cost.gpu_seconds
            for stage in ("text_encode", "denoise", "vae_decode"):
                self._gpu_seconds.labels(*labels, job.spec.model, stage).inc(getattr(seconds, stage))
        if job.status.output is not None:
            self._video_seconds.labels(*labels, job.spec.model).inc(job.status.output.duration_seconds)

    def assigned(self, job: Job, pool: str, now: datetime) -> None:
        """A job was given to a replica of that pool."""
        labels = (job.namespace, job.queue, pool)
        self._assignments.labels(*labels).inc()
        if job.attempts == 0:
            self._queue_seconds.labels(*labels).observe(max((now - job.created).total_seconds(), 0.0))
        elif job.failures > 0:
            self.retries.labels(*labels).inc()

    def api_write(self, verb: str, kind: str, code: int, seconds: float) -> None:
        """An API write was answered, after so long."""
        self.api_writes.labels(verb, kind, str(code)).inc()
        self.api_write_seconds.labels(verb, kind).observe(seconds)


class Turns(Protocol):
    """The planning loop."""

    @property
    def age(self) -> float:
        """Seconds since it last turned."""


class Watches(Protocol):
    """Watches of some kinds."""

    @property
    def proved(self) -> Mapping[ResourceKind, float]:
        """When each last proved itself, on the monotonic clock."""


class State(Collector):
    """Jobs, heartbeats and pools as they are when somebody looks; nothing is mirrored, so nothing goes stale."""

    def __init__(
        self,
        book: Book,
        loop: Turns,
        watches: Sequence[Watches],
        monotonic: Callable[[], float],
    ) -> None:
        self._book = book
        self._loop = loop
        self._watches = watches
        self._monotonic = monotonic

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The gauges."""
        jobs = GaugeMetricFamily(
            "videojob_jobs",
            "Jobs by phase; pool is that of the last assignment.",
            labels=("namespace", "queue", "pool", "phase"),
        )
        for labels, count in self._book.counts.items():
            jobs.add_metric((labels.namespace, labels.queue, labels.pool, labels.phase), count)
        yield jobs
        ages = GaugeMetricFamily(
            "videojob_heartbeat_age_seconds", "Seconds since a replica's last heartbeat.", labels=("pool", "replica")
        )
        now = self._monotonic()
        for key, age in self._book.liveness.ages(now):
            ages.add_metric(key, age)
        yield ages
        yield GaugeMetricFamily(
            "videojob_operator_loop_age_seconds", "Seconds since the planning loop last turned.", self._loop.age
        )
        waiting = GaugeMetricFamily(
            "videojob_jobs_waiting",
            "Jobs that no replica holds, by the reason on their status.",
            labels=("namespace", "queue", "reason"),
        )
        for (queue, reason), count in self._book.agenda.pending.reasons.items():
            waiting.add_metric((queue.namespace, queue.name, reason), count)
        yield waiting
        yield from self._knowledge(now)
        yield from self._pools()

    def _knowledge(self, now: float) -> Iterable[GaugeMetricFamily]:
        """How well the operator sees."""
        unreadable = GaugeMetricFamily(
            "videojob_operator_unreadable_objects", "Objects whose newest version cannot be read.", labels=("kind",)
        )
        for plural, count in PyCounter(plural for plural, _ in self._book.unreadable).items():
            unreadable.add_metric((plural,), count)
        yield unreadable
        unclaimed = sum(claim.unnamed > 0 for claim in self._book.claims.values())
        yield GaugeMetricFamily(
            "videojob_jobs_unclaimed", "Jobs that the latest report of their replica does not name.", unclaimed
        )
        ages = GaugeMetricFamily(
            "videojob_operator_watch_age_seconds", "Seconds since a watch last proved itself.", labels=("kind",)
        )
        for watches in self._watches:
            for kind, proved in watches.proved.items():
                ages.add_metric((kind.plural,), now - proved)
        yield ages
        yield GaugeMetricFamily(
            "videojob_operator_contact_seconds",
            "For how long the API server has answered without a gap.",
            self._book.liveness.contact.steady_seconds(now),
        )

    def _pools(self) -> Iterable[GaugeMetricFamily]:
        """What the pools' statuses say, so that dashboards and `kubectl get gpupools` agree."""
        backlog = GaugeMetricFamily(
            "videojob_pool_backlog_seconds",
            "Predicted replica seconds of the jobs that run or wait in a pool.",
            labels=("pool",),
        )
        depth = GaugeMetricFamily("videojob_pool_queue_depth", "Jobs that wait for a pool.", labels=("pool",))
        slots = GaugeMetricFamily("videojob_pool_slots", "Jobs that ready replicas can hold.", labels=("pool",))
        paused = GaugeMetricFamily("videojob_pool_paused", "1 while scaling is paused.", labels=("pool",))
        replicas = GaugeMetricFamily(
            "videojob_pool_replicas",
            "Replicas of a pool: wanted, ready, busy and loading.",
            labels=("pool", "state"),
        )
        conditions = GaugeMetricFamily(
            "videojob_pool_condition", "1 where a condition of the pool is true, else 0.", labels=("pool", "type")
        )
        for name, pool in sorted(self._book.pools.items()):
            status = pool.status
            backlog.add_metric((name,), status.backlog_seconds)
            depth.add_metric((name,), status.waiting_jobs)
            slots.add_metric((name,), status.slots)
            paused.add_metric((name,), float(pool.paused))
            for state, count in (
                ("wanted", status.desired_replicas),
                ("ready", status.ready_replicas),
                ("busy", status.busy_replicas),
                ("loading", status.loading_replicas),
            ):
                replicas.add_metric((name, state), count)
            for condition in status.conditions:
                conditions.add_metric((name, condition.type), float(condition.status == "True"))
        yield from (backlog, depth, slots, paused, replicas, conditions)
