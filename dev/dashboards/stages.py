"""Stages and cost: where the time of a chunk goes, what overlaps, what a second of video costs."""

from dev.dashboards.panels import (
    Dashboard,
    Query,
    Section,
    bar_gauge,
    counted,
    label_values,
    mean,
    or_zero,
    quantile,
    stat_panel,
    time_series,
)

RUNNERS = 'pool=~"$pool", model=~"$model"'
JOBS = 'namespace=~"$namespace", queue=~"$queue", model=~"$model"'
DECODE = RUNNERS + ', stage="vae_decode"'
SPENT = f"sum by (stage) (rate(videojob_runner_stage_seconds_sum{{{RUNNERS}}}[$window]))"


def _gpu(by: str, window: str = "$__range") -> str:
    counts = counted("videojob_gpu_seconds_total", "namespace, queue, model, stage", JOBS, window)
    return f"sum by ({by}) ({counts})"


def _video(by: str, window: str = "$__range", function: str = "increase") -> str:
    counts = counted("videojob_video_seconds_total", "namespace, queue, model", JOBS, window, function)
    return f"sum by ({by}) ({counts})"


def _overlap(by: str) -> str:
    hidden, decoded = (
        f"sum by ({by}) (rate({metric}[$window]))"
        for metric in (
            f"videojob_runner_overlap_seconds_total{{{RUNNERS}}}",
            f"videojob_runner_stage_seconds_sum{{{DECODE}}}",
        )
    )
    return f"{hidden} / {decoded}"


DASHBOARD = Dashboard(
    name="stages",
    title="Stages and cost",
    description="Where the time of a chunk goes, how much decoding hides behind denoising, and what videos cost.",
    variables=(
        label_values("namespace", "namespace", "videojob_jobs", "Namespaces of the jobs, for cost."),
        label_values("queue", "queue", 'videojob_jobs{namespace=~"$namespace"}', "VideoQueues, for cost."),
        label_values("pool", "pool", "videojob_runner_slots", "GPUPools, for stages."),
        label_values("model", "model", "videojob_runner_chunks_total", "VideoModels."),
    ),
    sections=(
        Section(
            "In the time range",
            (
                stat_panel(
                    "GPU-seconds",
                    Query(f"sum(increase(videojob_runner_gpu_seconds_total{{{RUNNERS}}}[$__range]))"),
                    "Accelerator time of all stages, as runners count it while they work.",
                    unit="s",
                ),
                stat_panel(
                    "Video finished",
                    Query(or_zero(_video(""))),
                    "Seconds of finished video.",
                    unit="s",
                ),
                stat_panel(
                    "GPU-seconds a video-second",
                    Query(f"{_gpu('')} / {_video('')}"),
                    "Of jobs that ended in the range, failed ones included: what a second of video really cost.",
                ),
                stat_panel(
                    "Decoding that is hidden",
                    Query(
                        f"sum(rate(videojob_runner_overlap_seconds_total{{{RUNNERS}}}[$window])) / "
                        f"sum(rate(videojob_runner_stage_seconds_sum{{{DECODE}}}[$window]))"
                    ),
                    "Share of the decoding time in which the next chunk was denoised: it costs the user nothing.",
                    unit="percentunit",
                    thresholds=((None, "orange"), (0.5, "green")),
                ),
                stat_panel(
                    "Real-time factor, p50",
                    Query(quantile(0.5, "videojob_runner_real_time_factor", RUNNERS)),
                    "Seconds on replicas for a second of finished video.",
                    thresholds=((None, "green"), (1, "orange")),
                ),
                stat_panel(
                    "Started again",
                    Query(
                        or_zero(
                            'sum(increase(videojob_runner_retries_total{pool=~"$pool", what="sequence"}[$__range]))'
                        )
                    ),
                    "Sequences that a runner started again from the last commit: work that was paid twice.",
                    thresholds=((None, "green"), (1, "orange")),
                ),
            ),
        ),
        Section(
            "Stages",
            (
                time_series(
                    "A chunk, by stage",
                    (
                        Query(
                            SPENT
                            + f" / on () group_left sum(rate(videojob_runner_chunks_total{{{RUNNERS}}}[$window]))",
                            "{{stage}}",
                        ),
                    ),
                    "Seconds of work for a chunk, stacked; mux and upload of a whole video are spread over its chunks. "
                    "Stages overlap, so the stack is higher than the time between two chunks.",
                    unit="s",
                    stacked=True,
                    size="half",
                ),
                time_series(
                    "Seconds a stage takes, p95",
                    (
                        Query(
                            quantile(0.95, "videojob_runner_stage_seconds", RUNNERS, "stage"),
                            "{{stage}}",
                        ),
                    ),
                    "For a chunk; mux and upload also for the whole video at its end.",
                    unit="s",
                    size="half",
                ),
                time_series(
                    "Share of the work, by stage",
                    (
                        Query(
                            SPENT + " / on () group_left "
                            f"sum(rate(videojob_runner_stage_seconds_sum{{{RUNNERS}}}[$window]))",
                            "{{stage}}",
                        ),
                    ),
                    "Of all seconds of work.",
                    unit="percentunit",
                    stacked=True,
                ),
                time_series(
                    "Decoding that is hidden",
                    (Query(_overlap("model"), "{{model}}"),),
                    "Share of the decoding time in which the next chunk was denoised.",
                    unit="percentunit",
                ),
                time_series(
                    "Seconds a stage takes on average, by model",
                    (
                        Query(
                            mean("videojob_runner_stage_seconds", RUNNERS, "model, stage"),
                            "{{model}} {{stage}}",
                        ),
                    ),
                    "To compare models, and a model before and after a change.",
                    unit="s",
                ),
            ),
        ),
        Section(
            "Cost",
            (
                time_series(
                    "Accelerators at work, by stage",
                    (
                        Query(
                            f"sum by (stage) (rate(videojob_runner_gpu_seconds_total{{{RUNNERS}}}[$__rate_interval]))",
                            "{{stage}}",
                        ),
                    ),
                    "Accelerator-seconds spent in a second. Stages that overlap on one accelerator count each.",
                    stacked=True,
                ),
                time_series(
                    "Accelerators at work, by model",
                    (
                        Query(
                            f"sum by (model) (rate(videojob_runner_gpu_seconds_total{{{RUNNERS}}}[$__rate_interval]))",
                            "{{model}}",
                        ),
                    ),
                    "Accelerator-seconds spent in a second. Stages that overlap on one accelerator count each.",
                    stacked=True,
                ),
                time_series(
                    "Video finished a minute",
                    (
                        Query(
                            or_zero("60 * " + _video("model", "$window", "rate")),
                            "{{model}}",
                        ),
                    ),
                    "Seconds of finished video.",
                    unit="s",
                ),
                bar_gauge(
                    "GPU-seconds a video-second, by model",
                    Query(f"{_gpu('model')} / {_video('model')}", "{{model}}"),
                    "Of jobs that ended in the time range.",
                ),
                bar_gauge(
                    "GPU-seconds a video-second, by queue",
                    Query(f"{_gpu('namespace, queue')} / {_video('namespace, queue')}", "{{namespace}}/{{queue}}"),
                    "Of jobs that ended in the time range.",
                ),
                bar_gauge(
                    "GPU-seconds a video-second, by stage",
                    Query(f"{_gpu('model, stage')} / on (model) group_left {_video('model')}", "{{model}} {{stage}}"),
                    "Of jobs that ended in the time range: where a cheaper stage would help.",
                ),
                bar_gauge(
                    "GPU-seconds, by queue",
                    Query(_gpu("namespace, queue"), "{{namespace}}/{{queue}}"),
                    "Of jobs that ended in the time range, whatever their end: what to charge.",
                    unit="s",
                ),
                bar_gauge(
                    "GPU-seconds, by model",
                    Query(_gpu("model"), "{{model}}"),
                    "Of jobs that ended in the time range.",
                    unit="s",
                ),
                bar_gauge(
                    "Video finished, by queue",
                    Query(_video("namespace, queue"), "{{namespace}}/{{queue}}"),
                    "Seconds of video of jobs that ended in the time range.",
                    unit="s",
                ),
            ),
        ),
    ),
)
