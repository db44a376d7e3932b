"""Jobs: how many, why they wait, when their pixels come, how they end."""

from dev.dashboards.panels import (
    Dashboard,
    Query,
    Section,
    counted,
    label_values,
    leading,
    or_zero,
    quantile,
    stat_panel,
    text_panel,
    time_series,
)

JOBS = 'namespace=~"$namespace", queue=~"$queue"'
MODELS = 'model=~"$model"'
OBJECTIVE_SECONDS = 600
"""How long a job may wait: the objective of the alerts VideojobWaitTooLong."""

WAITING = leading(f"videojob_jobs_waiting{{{JOBS}}}")
IN_TIME = f'sum(rate(videojob_queue_seconds_bucket{{{JOBS}, le="600.0"}}[$window]))'


def _phase(phase: str) -> str:
    return or_zero("sum(" + leading(f'videojob_jobs{{{JOBS}, phase="{phase}"}}') + ")")


def _by_model(histogram: str) -> tuple[Query, ...]:
    """Its median and its 95th percentile, by model."""
    return tuple(Query(quantile(q, histogram, MODELS, "model"), f"p{q * 100:g} {{{{model}}}}") for q in (0.5, 0.95))


DASHBOARD = Dashboard(
    name="jobs",
    title="Jobs",
    description="Where the videos are, why jobs wait, when the first pixels come, and how jobs end.",
    variables=(
        label_values("namespace", "namespace", "videojob_jobs", "Namespaces of the jobs."),
        label_values("queue", "queue", 'videojob_jobs{namespace=~"$namespace"}', "VideoQueues of these namespaces."),
        label_values("model", "model", "videojob_runner_chunks_total", "VideoModels, for what runners measure."),
    ),
    sections=(
        Section(
            "Now",
            (
                stat_panel(
                    "Waiting",
                    Query(or_zero(f"sum({WAITING})")),
                    "Jobs that no replica holds yet and that are not suspended.",
                    runbook="VideojobQueueStalled",
                ),
                stat_panel("Running", Query(_phase("Running")), "Jobs of which a replica makes chunks."),
                stat_panel("Succeeded", Query(_phase("Succeeded")), "Finished jobs that still exist, with a video."),
                stat_panel(
                    "Failed",
                    Query(_phase("Failed")),
                    "Finished jobs that still exist, without a video: `kubectl describe` shows why.",
                    thresholds=((None, "green"), (1, "orange")),
                ),
                stat_panel(
                    "Wait, p95",
                    Query(quantile(0.95, "videojob_queue_seconds", JOBS)),
                    "95 of 100 jobs that got a replica within the window had waited no longer than this.",
                    unit="s",
                    thresholds=((None, "green"), (OBJECTIVE_SECONDS / 2, "orange"), (OBJECTIVE_SECONDS, "red")),
                    runbook="VideojobWaitTooLong",
                ),
                stat_panel(
                    "Waits within 10 min",
                    Query(f"{IN_TIME} / sum(rate(videojob_queue_seconds_count{{{JOBS}}}[$window]))"),
                    "Share of the jobs that got a replica within the window and had waited at most 10 minutes. The "
                    "objective is 95 %.",
                    unit="percentunit",
                    thresholds=((None, "red"), (0.95, "green")),
                    runbook="VideojobWaitTooLong",
                ),
            ),
        ),
        Section(
            "Where they are",
            (
                time_series(
                    "Jobs by phase",
                    (Query("sum by (phase) (" + leading(f"videojob_jobs{{{JOBS}}}") + ")", "{{phase}}"),),
                    "Jobs that exist. Finished ones stay until their time to live ends or somebody deletes them.",
                    stacked=True,
                ),
                time_series(
                    "Waiting, by reason",
                    (Query(or_zero(f"sum by (reason) ({WAITING})"), "{{reason}}"),),
                    "The reason is that of the job's condition Assigned; the message there has what to do.",
                    stacked=True,
                    runbook="VideojobQueueStalled",
                ),
                time_series(
                    "Waiting, by queue",
                    (Query(or_zero(f"sum by (namespace, queue) ({WAITING})"), "{{namespace}}/{{queue}}"),),
                    "Which queue holds the jobs that wait.",
                    stacked=True,
                ),
            ),
        ),
        Section(
            "How long it takes",
            (
                time_series(
                    "Wait until a replica takes the job",
                    tuple(
                        Query(quantile(q, "videojob_queue_seconds", JOBS), f"p{q * 100:g}") for q in (0.5, 0.95, 0.99)
                    ),
                    "From creation to the first assignment. The line is the objective.",
                    unit="s",
                    thresholds=((None, "green"), (OBJECTIVE_SECONDS, "red")),
                    runbook="VideojobWaitTooLong",
                ),
                time_series(
                    "Time to the first frame",
                    _by_model("videojob_runner_first_frame_seconds"),
                    "From creation to the first frames in the store, the wait included.",
                    unit="s",
                ),
                time_series(
                    "Real-time factor",
                    _by_model("videojob_runner_real_time_factor"),
                    "Seconds on replicas for a second of finished video: below 1, it is made faster than it plays.",
                    thresholds=((None, "green"), (1, "orange")),
                ),
            ),
        ),
        Section(
            "Progress",
            (
                time_series(
                    "Chunks committed a minute",
                    (
                        Query(
                            f"60 * sum by (model) (rate(videojob_runner_chunks_total{{{MODELS}}}[$__rate_interval]))",
                            "{{model}}",
                        ),
                    ),
                    "A chunk that is in the store is never made again.",
                ),
                time_series(
                    "Between two chunks of a job",
                    _by_model("videojob_runner_chunk_gap_seconds"),
                    "How steadily a job goes on.",
                    unit="s",
                ),
                time_series(
                    "Oldest checkpoint",
                    (Query("max by (pool) (videojob_runner_checkpoint_age_seconds)", "{{pool}}"),),
                    "Seconds since the last commit of the job that is most behind: what a lost replica would cost.",
                    unit="s",
                    thresholds=((None, "green"), (600, "red")),
                    runbook="VideojobCheckpointAgeHigh",
                ),
                time_series(
                    "When will it be done: predicted backlog",
                    (Query("max by (pool) " + leading("videojob_pool_backlog_seconds"), "{{pool}}"),),
                    "Predicted replica seconds of the jobs that wait or run. Each job's status has its own estimate.",
                    unit="s",
                ),
                time_series(
                    "Video finished a minute",
                    (
                        Query(
                            or_zero(
                                "60 * sum by (namespace, queue) ("
                                + counted(
                                    "videojob_video_seconds_total", "namespace, queue, model", JOBS, "$window", "rate"
                                )
                                + ")"
                            ),
                            "{{namespace}}/{{queue}}",
                        ),
                    ),
                    "Seconds of finished video.",
                    unit="s",
                ),
                time_series(
                    "Jobs given to a replica",
                    (
                        Query(
                            or_zero(
                                "sum by (namespace, queue) "
                                f"(increase(videojob_assignments_total{{{JOBS}}}[$__rate_interval]))"
                            ),
                            "{{namespace}}/{{queue}}",
                        ),
                    ),
                    "A queue whose jobs wait, but get no replica, is stalled.",
                    runbook="VideojobQueueStalled",
                ),
            ),
        ),
        Section(
            "What viewers see",
            (
                time_series(
                    "Longest time between two chunks",
                    _by_model("videojob_runner_worst_gap_seconds"),
                    "Of each finished video: what a viewer has to have in hand before he begins.",
                    unit="s",
                    size="quarter",
                ),
                time_series(
                    "Playback would have waited",
                    _by_model("videojob_runner_stalled_seconds"),
                    "Seconds of a video that is watched from its first frames on, while it is made.",
                    unit="s",
                    size="quarter",
                ),
                time_series(
                    "Drift",
                    (
                        Query(
                            quantile(0.95, "videojob_runner_drift", MODELS, "model, signal"),
                            "{{model}} {{signal}}",
                        ),
                    ),
                    "How far 95 of 100 chunks are from the first frames of their shots: 0 is the same.",
                    size="quarter",
                ),
                time_series(
                    "Videos refreshed",
                    (
                        Query(
                            or_zero(f"sum by (model) (increase(videojob_runner_refreshes_total{{{MODELS}}}[$window]))"),
                            "{{model}}",
                        ),
                    ),
                    "Times within the window that a video has dropped its recent past, because it drifted.",
                    size="quarter",
                ),
            ),
        ),
        Section(
            "How they end",
            (
                time_series(
                    "Jobs that ended, by reason",
                    (
                        Query(
                            or_zero(
                                "sum by (phase, reason) ("
                                + counted(
                                    "videojob_jobs_ended_total", "namespace, queue, phase, reason", JOBS, "$window"
                                )
                                + ")"
                            ),
                            "{{phase}} {{reason}}",
                        ),
                    ),
                    "Within the window.",
                    stacked=True,
                    size="quarter",
                ),
                time_series(
                    "Attempts that ended, by reason",
                    (
                        Query(
                            f"sum by (reason) (increase(videojob_runner_attempts_total{{{MODELS}}}[$window]))",
                            "{{reason}}",
                        ),
                    ),
                    "Within the window. A job may need several; Drained and ReplicaLost are no failures of it.",
                    stacked=True,
                    size="quarter",
                ),
                time_series(
                    "Attempts after a failure",
                    (
                        Query(
                            or_zero(f"sum by (namespace, queue) (increase(videojob_retries_total{{{JOBS}}}[$window]))"),
                            "{{namespace}}/{{queue}}",
                        ),
                    ),
                    "Within the window.",
                    size="quarter",
                ),
                time_series(
                    "Jobs taken from lost replicas",
                    (
                        Query(
                            or_zero("sum by (pool, reason) (increase(videojob_reassignments_total[$window]))"),
                            "{{pool}} {{reason}}",
                        ),
                    ),
                    "Within the window. Their committed chunks are kept.",
                    size="quarter",
                    runbook="VideojobReassignmentStorm",
                ),
            ),
        ),
        Section(
            "One job",
            (
                text_panel(
                    "Ask for one job",
                    "No metric names a job. `kubectl get videojobs -A -o wide` shows phase, progress and reason; "
                    "`kubectl describe videojob NAME` has conditions with what to do, the estimated end, seconds and "
                    "GPU-seconds by stage. Its log lines: `kubectl logs -n videojob-system -l "
                    "app.kubernetes.io/name=videojob --tail=-1 | grep UID`.",
                ),
            ),
        ),
    ),
)
