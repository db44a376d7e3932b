"""Pools: replicas wanted and ready, backlog, scaling, what the accelerators do, what Triton's models wait for."""

from dev.dashboards.panels import (
    Dashboard,
    Query,
    Section,
    label_values,
    leading,
    or_zero,
    overall,
    stat_panel,
    state_timeline,
    time_series,
)

POOLS = 'pool=~"$pool"'
# An ensemble's own counters mislead: its pending count stays near 0, its queue time reads 0, and a failure in one of
# its models counts twice. So only the models that it is composed of are read.
STAGE_MODELS = 'pool=~"$pool", model=~".+[.](text_encoder|denoiser|vae_decoder)"'


def _pool(metric: str, more: str = "") -> str:
    return leading(f"{metric}{{{POOLS}{', ' + more if more else ''}}}")


def _replicas(state: str) -> str:
    return "sum(" + _pool("videojob_pool_replicas", f'state="{state}"') + ")"


def _a_request(part: str) -> str:
    durations, requests = (
        f"sum by (model) (rate({metric}{{{STAGE_MODELS}}}[$window]))"
        for metric in (f"nv_inference_{part}_duration_us", "nv_inference_request_success")
    )
    return f"{durations} / {requests} / 1e6"


DASHBOARD = Dashboard(
    name="pools",
    title="Pools",
    description="Replicas that are wanted and ready, the backlog that they are chosen for, and what they do.",
    variables=(
        label_values("pool", "pool", "videojob_pool_replicas", "GPUPools."),
        label_values("namespace", "namespace", "videojob_jobs", "Namespaces of the jobs, where jobs are counted."),
    ),
    sections=(
        Section(
            "Now",
            (
                stat_panel(
                    "Ready",
                    Query(_replicas("ready")),
                    "Replicas with a live heartbeat and the pool's models loaded.",
                    thresholds=((None, "red"), (1, "green")),
                    runbook="VideojobPoolNoReadyReplica",
                ),
                stat_panel("Wanted", Query(_replicas("wanted")), "Replicas that the pool is to have."),
                stat_panel("Busy", Query(_replicas("busy")), "Replicas that hold a job."),
                stat_panel(
                    "Waiting for a pool",
                    Query(f"sum({_pool('videojob_pool_queue_depth')})"),
                    "Jobs that wait for one of these pools.",
                ),
                stat_panel(
                    "Backlog",
                    Query(f"max({_pool('videojob_pool_backlog_seconds')})"),
                    "Predicted replica seconds of the jobs that wait or run, of the pool that has most.",
                    unit="s",
                ),
                stat_panel(
                    "Paused",
                    Query(or_zero(f"sum({_pool('videojob_pool_paused')})")),
                    "Pools whose scaling is paused by the annotation videojob.dev/paused.",
                    thresholds=((None, "green"), (1, "orange")),
                ),
            ),
        ),
        Section(
            "Scaling",
            (
                time_series(
                    "Replicas",
                    (
                        Query(
                            f"sum by (pool, state) ({_pool('videojob_pool_replicas')})",
                            "{{pool}} {{state}}",
                        ),
                    ),
                    "Wanted above ready: replicas are starting, or cannot start; the pool's conditions show which.",
                    size="half",
                    runbook="VideojobPoolNoReadyReplica",
                ),
                time_series(
                    "Backlog",
                    (Query(f"max by (pool) ({_pool('videojob_pool_backlog_seconds')})", "{{pool}}"),),
                    "Predicted replica seconds of the jobs that wait or run. The planner scales to the replicas that "
                    "drain it within the pool's targetSeconds.",
                    unit="s",
                    size="half",
                ),
                time_series(
                    "Jobs waiting and slots",
                    (
                        Query(f"max by (pool) ({_pool('videojob_pool_queue_depth')})", "{{pool}} waiting"),
                        Query(f"max by (pool) ({_pool('videojob_pool_slots')})", "{{pool}} slots"),
                    ),
                    "Slots are the jobs that the replicas of a pool take at a time.",
                ),
                time_series(
                    "Scaling decisions",
                    (
                        Query(
                            or_zero(
                                "sum by (pool, direction) "
                                f"(increase(videojob_pool_scalings_total{{{POOLS}}}[$__rate_interval]))"
                            ),
                            "{{pool}} {{direction}}",
                        ),
                    ),
                    "Each has its reason on the pool: status.lastScaling, and an Event.",
                ),
                time_series(
                    "Cold start",
                    (Query(overall("videojob_pool_cold_start_seconds", POOLS, "pool"), "{{pool}}"),),
                    "From a pod's creation to its first ready model. Mean since the operator began.",
                    unit="s",
                ),
                state_timeline(
                    "Conditions",
                    Query(f"max by (pool, type) ({_pool('videojob_pool_condition')})", "{{pool}} {{type}}"),
                    "All conditions are positive, and red is what is not so: `kubectl describe gpupool` shows why and "
                    "what to do.",
                    {"0": ("False", "red"), "1": ("True", "green")},
                    runbook="VideojobPoolNoReadyReplica",
                ),
                time_series(
                    "Seconds to load a model",
                    (Query(overall("videojob_runner_model_load_seconds", POOLS, "pool, model"), "{{pool}} {{model}}"),),
                    "From the request to Triton until the model can be used. Mean since the runners began.",
                    unit="s",
                ),
                time_series(
                    "Model loads, by result",
                    (
                        Query(
                            f"sum by (model, result) (increase(videojob_runner_model_loads_total{{{POOLS}}}[$window]))",
                            "{{model}} {{result}}",
                        ),
                    ),
                    "Within the window.",
                    runbook="VideojobModelLoadFailing",
                ),
            ),
        ),
        Section(
            "Utilisation",
            (
                time_series(
                    "Slots in use",
                    (
                        Query(
                            f"sum by (pool) (videojob_runner_active_jobs{{{POOLS}}}) / "
                            f"clamp_min(sum by (pool) (videojob_runner_slots{{{POOLS}}}), 1)",
                            "{{pool}}",
                        ),
                    ),
                    "Share of the slots of live replicas that hold a job.",
                    unit="percentunit",
                ),
                time_series(
                    "Accelerators that compute",
                    (
                        Query(
                            f"sum by (pool) (rate(videojob_runner_gpu_seconds_total{{{POOLS}}}[$__rate_interval]))",
                            "{{pool}}",
                        ),
                    ),
                    "Accelerator-seconds spent in a second. Stages that overlap on one accelerator count each.",
                ),
                time_series(
                    "Running jobs, by namespace",
                    (
                        Query(
                            or_zero(
                                "sum by (pool, namespace) ("
                                + _pool("videojob_jobs", 'namespace=~"$namespace", phase="Running"')
                                + ")"
                            ),
                            "{{pool}} {{namespace}}",
                        ),
                    ),
                    "Who uses the pool.",
                    stacked=True,
                ),
                time_series(
                    "GPU memory in use",
                    (
                        Query(
                            f"sum by (pool, gpu_uuid) (nv_gpu_memory_used_bytes{{{POOLS}}}) / "
                            f"sum by (pool, gpu_uuid) (nv_gpu_memory_total_bytes{{{POOLS}}})",
                            "{{pool}} {{gpu_uuid}}",
                        ),
                    ),
                    "Share of each accelerator's memory, as Triton reads it.",
                    unit="percentunit",
                    thresholds=((None, "green"), (0.95, "red")),
                ),
                time_series(
                    "GPU utilisation",
                    (
                        Query(
                            f"avg by (pool, gpu_uuid) (nv_gpu_utilization{{{POOLS}}})",
                            "{{pool}} {{gpu_uuid}}",
                        ),
                    ),
                    "Share of time in which a kernel ran, as Triton reads it.",
                    unit="percentunit",
                ),
                time_series(
                    "GPU power",
                    (Query(f"sum by (pool) (nv_gpu_power_usage{{{POOLS}}})", "{{pool}}"),),
                    "Watts of all accelerators of the pool.",
                    unit="watt",
                ),
            ),
        ),
        Section(
            "Triton, by model",
            (
                time_series(
                    "Queue time a request",
                    (Query(_a_request("queue"), "{{model}}"),),
                    "How long a chunk waits before each stage. A stage with much of it is the bottleneck.",
                    unit="s",
                ),
                time_series(
                    "Compute time a request",
                    (Query(_a_request("compute_infer"), "{{model}}"),),
                    "How long each stage computes on a chunk.",
                    unit="s",
                ),
                time_series(
                    "Requests that wait",
                    (
                        Query(
                            f"sum by (model) (nv_inference_pending_request_count{{{STAGE_MODELS}}})",
                            "{{model}}",
                        ),
                    ),
                    "Summed over the models of the ensemble; the ensemble's own count stays near 0.",
                ),
                time_series(
                    "Requests a second",
                    (
                        Query(
                            f"sum by (model) (rate(nv_inference_request_success{{{STAGE_MODELS}}}[$__rate_interval]))",
                            "{{model}}",
                        ),
                    ),
                    "Requests that each stage answered.",
                    unit="reqps",
                ),
                time_series(
                    "Requests that failed",
                    (
                        Query(
                            "sum by (model, reason) "
                            f"(increase(nv_inference_request_failure{{{STAGE_MODELS}}}[$window]))",
                            "{{model}} {{reason}}",
                        ),
                    ),
                    "Within the window, by stage and Triton's reason.",
                ),
                time_series(
                    "Heartbeat age",
                    (
                        Query(
                            f"max by (pool, replica) ({_pool('videojob_heartbeat_age_seconds')})",
                            "{{pool}} {{replica}}",
                        ),
                    ),
                    "Seconds since the operator last saw the replica's Lease renewed; after 15 it counts as lost.",
                    unit="s",
                    thresholds=((None, "green"), (15, "red")),
                    runbook="VideojobReassignmentStorm",
                ),
            ),
        ),
    ),
)
