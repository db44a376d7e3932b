"""What dashboards see of a runner. Labels are pool, replica, model and a stage: never a job, a user or a prompt."""

from collections.abc import Callable
from dataclasses import asdict

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from videojob import __version__
from videojob.api.videojob import Timing
from videojob.media import Drift

LABELS = ("pool", "replica", "model")
LOAD_SECONDS = (1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0)
SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3600.0, 10800.0, 36000.0, 86400.0)


class RunnerMetrics:
    """The runner's metrics, bound to one replica."""

    def __init__(self, registry: CollectorRegistry, pool: str, replica: str) -> None:
        self._place = (pool, replica)
        self._stage_seconds = Histogram(
            "videojob_runner_stage_seconds",
            "Seconds of work on a chunk, or on the whole video for the final mux and upload.",
            (*LABELS, "stage"),
            registry=registry,
            buckets=SECONDS,
        )
        self._gpu_seconds = Counter(
            "videojob_runner_gpu_seconds_total",
            "Accelerator time: compute seconds times the replica's accelerators.",
            (*LABELS, "stage"),
            registry=registry,
        )
        self._chunk_gap = Histogram(
            "videojob_runner_chunk_gap_seconds",
            "Seconds between two chunks of a job in the store.",
            LABELS,
            registry=registry,
            buckets=SECONDS,
        )
        self._first_frame = Histogram(
            "videojob_runner_first_frame_seconds",
            "Seconds from a job's creation to its first frames in the store.",
            LABELS,
            registry=registry,
            buckets=SECONDS,
        )
        self._real_time_factor = Histogram(
            "videojob_runner_real_time_factor",
            "Wall seconds on replicas per second of finished video.",
            LABELS,
            registry=registry,
            buckets=(0.1, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 5.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0),
        )
        self._worst_gap = Histogram(
            "videojob_runner_worst_gap_seconds",
            "The longest time between two chunks of a finished video in the store.",
            LABELS,
            registry=registry,
            buckets=SECONDS,
        )
        self._stalls = Counter(
            "videojob_runner_stalls_total",
            "Times that playback of a finished video, from its first frames on, would have had to wait for more.",
            LABELS,
            registry=registry,
        )
        self._stalled = Histogram(
            "videojob_runner_stalled_seconds",
            "Seconds that playback of a finished video, from its first frames on, would have waited, in all.",
            LABELS,
            registry=registry,
            buckets=SECONDS,
        )
        self._drift = Histogram(
            "videojob_runner_drift",
            "How far a chunk has drifted from the first frames of its shot, by signal: from 0, the same, to 1.",
            (*LABELS, "signal"),
            registry=registry,
            buckets=(0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
        )
        self._refreshes = Counter(
            "videojob_runner_refreshes_total",
            "Chunks that were made without the recent past of their shot, because it had drifted too far.",
            LABELS,
            registry=registry,
        )
        self._chunks = Counter(
            "videojob_runner_chunks_total", "Chunks committed to the store.", LABELS, registry=registry
        )
        self._attempts = Counter(
            "videojob_runner_attempts_total",
            "Attempts that ended, by the reason that the job was left with.",
            (*LABELS, "reason"),
            registry=registry,
        )
        self._retries = Counter(
            "videojob_runner_retries_total",
            "Retries: sequences started again, and writes to the API server tried again.",
            ("pool", "replica", "what"),
            registry=registry,
        )
        self._store_errors = Counter(
            "videojob_runner_store_errors_total",
            "Requests that the object store refused or did not answer.",
            ("pool", "replica"),
            registry=registry,
        )
        self._unreported = Counter(
            "videojob_runner_unreported_attempts_total",
            "Attempts that were given up because the API server refused their last status.",
            ("pool", "replica"),
            registry=registry,
        )
        self._unwell = Counter(
            "videojob_runner_unwell_total",
            "Times that the replica was found to fail whatever job it gets, as with a broken accelerator.",
            ("pool", "replica"),
            registry=registry,
        )
        self._unreadable = Counter(
            "videojob_runner_unreadable_objects_total",
            "Versions of objects that the runner cannot read, by kind; what it last read stays in force.",
            ("pool", "replica", "kind"),
            registry=registry,
        )
        self._errors = Counter(
            "videojob_runner_errors_total",
            "Errors that a task of the runner met and went on after, by task and type: refused, or unknown, a defect.",
            ("pool", "replica", "what", "type"),
            registry=registry,
        )
        self._active = Gauge(
            "videojob_runner_active_jobs", "Jobs that the runner holds.", ("pool", "replica"), registry=registry
        )
        self._heartbeat = Gauge(
            "videojob_runner_heartbeat_age_seconds",
            "Seconds since the replica's Lease was last renewed.",
            ("pool", "replica"),
            registry=registry,
        )
        self._checkpoint_age = Gauge(
            "videojob_runner_checkpoint_age_seconds",
            "Seconds since the last commit, or the start, of the active job for which that is longest; 0 without one.",
            ("pool", "replica"),
            registry=registry,
        )
        self._slots = Gauge(
            "videojob_runner_slots", "Jobs that the replica takes at a time.", ("pool", "replica"), registry=registry
        )
        self._overlap = Counter(
            "videojob_runner_overlap_seconds_total",
            "Seconds of decoding that were hidden behind the denoising of the same job's next chunk.",
            LABELS,
            registry=registry,
        )
        self._load_seconds = Histogram(
            "videojob_runner_model_load_seconds",
            "Seconds that Triton took to load a model.",
            LABELS,
            registry=registry,
            buckets=LOAD_SECONDS,
        )
        self._loads = Counter(
            "videojob_runner_model_loads_total",
            "Loads of a model by Triton, by result: loaded or failed.",
            (*LABELS, "result"),
            registry=registry,
        )
        # A counter that is born with its first event hides that one from increase().
        self._store_errors.labels(*self._place)
        self._unreported.labels(*self._place)
        self._unwell.labels(*self._place)
        for kind in ("videojobs", "videomodels", "gpupools"):
            self._unreadable.labels(*self._place, kind)
        for what in ("sequence", "api"):
            self._retries.labels(*self._place, what)
        build = Gauge("videojob_runner_build_info", "Always 1, with the version.", ("version",), registry=registry)
        build.labels(__version__).set(1)

    def stage(self, model: str, stage: str, seconds: float, accelerators: int = 0) -> None:
        """A stage has worked on a chunk; on so many accelerators."""
        self._stage_seconds.labels(*self._place, model, stage).observe(seconds)
        if accelerators:
            self._gpu_seconds.labels(*self._place, model, stage).inc(seconds * accelerators)

    def chunk(self, model: str, gap_seconds: float | None) -> None:
        """A chunk is in the store; so long after the one before it, if there was one in this attempt."""
        self._chunks.labels(*self._place, model).inc()
        if gap_seconds is not None:
            self._chunk_gap.labels(*self._place, model).observe(gap_seconds)

    def drifted(self, model: str, drift: Drift) -> None:
        """A chunk is in the store, so far from its shot's first."""
        for signal, value in asdict(drift).items():
            if value is not None:
                self._drift.labels(*self._place, model, signal).observe(value)

    def refreshed(self, model: str) -> None:
        """A chunk was made without its recent past."""
        self._refreshes.labels(*self._place, model).inc()

    def first_frame(self, model: str, seconds: float) -> None:
        """A job's first frames are in the store."""
        self._first_frame.labels(*self._place, model).observe(seconds)

    def ended(self, model: str, reason: str) -> None:
        """An attempt has ended; `reason` is one of the API's."""
        self._attempts.labels(*self._place, model, reason).inc()

    def finished(self, model: str, timing: Timing) -> None:
        """A video is complete."""
        if timing.real_time_factor is not None:
            self._real_time_factor.labels(*self._place, model).observe(timing.real_time_factor)
        if timing.worst_gap_seconds is not None:
            self._worst_gap.labels(*self._place, model).observe(timing.worst_gap_seconds)
        self._stalls.labels(*self._place, model).inc(timing.stalls)
        self._stalled.labels(*self._place, model).observe(timing.stalled_seconds)

    def retry(self, what: str) -> None:
        """Something is tried again: `sequence` or `api`."""
        self._retries.labels(*self._place, what).inc()

    def store_error(self) -> None:
        """The store refused, or did not answer."""
        self._store_errors.labels(*self._place).inc()

    def unreported(self) -> None:
        """An attempt has ended, and its last status was not taken."""
        self._unreported.labels(*self._place).inc()

    def unwell(self) -> None:
        """The replica fails whatever it gets."""
        self._unwell.labels(*self._place).inc()

    def unreadable(self, kind: str) -> None:
        """A version of an object of that kind (its plural) cannot be read."""
        self._unreadable.labels(*self._place, kind).inc()

    def error(self, task: str, *, known: bool) -> None:
        """A task met an error, and goes on."""
        self._errors.labels(*self._place, task, "refused" if known else "unknown").inc()

    def active(self, jobs: int) -> None:
        """So many jobs are held now."""
        self._active.labels(*self._place).set(jobs)

    def slots(self, jobs: int) -> None:
        """So many jobs are taken at a time from now on."""
        self._slots.labels(*self._place).set(jobs)

    def overlap(self, model: str, seconds: float) -> None:
        """So much decoding was hidden behind denoising."""
        self._overlap.labels(*self._place, model).inc(seconds)

    def loaded(self, model: str, seconds: float) -> None:
        """Triton has loaded a model."""
        self._loads.labels(*self._place, model, "loaded").inc()
        self._load_seconds.labels(*self._place, model).observe(seconds)

    def load_failed(self, model: str) -> None:
        """Triton, or a folder, did not give a model."""
        self._loads.labels(*self._place, model, "failed").inc()

    def checkpoints(self, age: Callable[[], float]) -> None:
        """Where to read the oldest checkpoint's age, in seconds."""
        self._checkpoint_age.labels(*self._place).set_function(age)

    def heartbeat(self, age: Callable[[], float]) -> None:
        """Where to read the heartbeat's age, in seconds."""
        self._heartbeat.labels(*self._place).set_function(age)
