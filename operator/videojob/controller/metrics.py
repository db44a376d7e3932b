"""What dashboards see of the operator. Labels are namespace, queue, pool, replica: never a job, a user or a prompt."""

from collections.abc import Iterable
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from videojob import __version__
from videojob.controller.cache import Cache
from videojob.controller.leases import Leases
from videojob.planner.snapshot import Job

QUEUE_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 60, 180, 600, 1800, 3600, 10800, 36000)
PLANNING_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3)


class Metrics:
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
        self.leader = Gauge("videojob_operator_leader", "1 while this operator leads.", registry=registry)
        Gauge("videojob_operator_build_info", "1, with the version.", ("version",), registry=registry).labels(
            __version__
        ).set(1)

    def assigned(self, job: Job, pool: str, now: datetime) -> None:
        """A job was given to a replica of that pool."""
        labels = (job.namespace, job.queue, pool)
        self._assignments.labels(*labels).inc()
        if job.attempts == 0:
            self._queue_seconds.labels(*labels).observe(max((now - job.created).total_seconds(), 0.0))
        elif job.failures > 0:
            self.retries.labels(*labels).inc()

    def api_write(self, verb: str, kind: str, code: int) -> None:
        """An API write was answered."""
        self.api_writes.labels(verb, kind, str(code)).inc()


class State(Collector):
    """Jobs and heartbeats as they are when somebody looks; nothing is mirrored, so nothing goes stale."""

    def __init__(self, cache: Cache, leases: Leases) -> None:
        self._cache = cache
        self._leases = leases

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The gauges."""
        jobs = GaugeMetricFamily(
            "videojob_jobs",
            "Jobs by phase; pool is that of the last assignment.",
            labels=("namespace", "queue", "pool", "phase"),
        )
        for labels, count in self._cache.counts.items():
            jobs.add_metric((labels.namespace, labels.queue, labels.pool, labels.phase.value), count)
        yield jobs
        ages = GaugeMetricFamily(
            "videojob_heartbeat_age_seconds", "Seconds since a replica's last heartbeat.", labels=("pool", "replica")
        )
        for key, age in self._leases.ages():
            ages.add_metric(key, age)
        yield ages
