"""What dashboards see of the operator. Labels are namespace, queue, pool, replica: never a job, a user or a prompt."""

from collections.abc import Callable, Iterable
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from videojob import __version__
from videojob.api.conditions import Reason
from videojob.api.videojob import VideoJob
from videojob.controller.cache import Cache
from videojob.controller.leases import Leases
from videojob.planner.snapshot import Job

QUEUE_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 60, 180, 600, 1800, 3600, 10800, 36000)
WRITE_SECONDS = (0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)
COLD_START_SECONDS = (5, 10, 20, 40, 60, 120, 240, 480, 900, 1800)
PLANNING_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3)


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
        self.watch_reconnects = Counter(
            "videojob_operator_watch_reconnects_total",
            "Watches that had to list everything again, by kind.",
            ("kind",),
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
        """A pool is looked after: a counter that is born with its first event hides that one from `increase()`."""
        for direction in ("up", "down"):
            self.scalings.labels(pool, direction)
        self.reassignments.labels(pool, Reason.REPLICA_LOST.value)

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


class State(Collector):
    """Jobs, heartbeats and pools as they are when somebody looks; nothing is mirrored, so nothing goes stale."""

    def __init__(self, cache: Cache, leases: Leases, loop_age: Callable[[], float]) -> None:
        self._cache = cache
        self._leases = leases
        self._loop_age = loop_age

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
        yield GaugeMetricFamily(
            "videojob_operator_loop_age_seconds", "Seconds since the planning loop last turned.", self._loop_age()
        )
        waiting = GaugeMetricFamily(
            "videojob_jobs_waiting",
            "Jobs that no replica holds, by the reason on their status.",
            labels=("namespace", "queue", "reason"),
        )
        for why, count in self._cache.waiting().items():
            waiting.add_metric(why, count)
        yield waiting
        yield from self._pools()

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
        for name, pool in sorted(self._cache.pools.items()):
            status = pool.status
            backlog.add_metric((name,), status.backlog_seconds)
            depth.add_metric((name,), status.waiting_jobs)
            slots.add_metric((name,), status.slots)
            paused.add_metric((name,), float(pool.paused))
            for state, count in (
                ("wanted", status.wanted_replicas),
                ("ready", status.ready_replicas),
                ("busy", status.busy_replicas),
                ("loading", status.loading_replicas),
            ):
                replicas.add_metric((name, state), count)
            for condition in status.conditions:
                conditions.add_metric((name, condition.type), float(condition.status == "True"))
        yield from (backlog, depth, slots, paused, replicas, conditions)
