"""Operator: who leads, whether it plans in time, what it watches and writes."""

from dev.dashboards.panels import (
    Dashboard,
    Query,
    Section,
    label_values,
    leading,
    or_zero,
    quantile,
    stat_panel,
    state_timeline,
    time_series,
)

# The namespace of the operators themselves, which Prometheus adds when it scrapes pods.
OPERATORS = 'namespace=~"$namespace"'
WRITES = f"videojob_operator_api_writes_total{{{OPERATORS}"


def _process(metric: str) -> str:
    return f"{metric}{{{OPERATORS}}} and on (instance) videojob_operator_build_info"


DASHBOARD = Dashboard(
    name="operator",
    title="Operator",
    description="Whether the operator leads, plans in time, sees every change, and gets its writes through.",
    variables=(
        label_values("namespace", "namespace", "videojob_operator_build_info", "Namespaces in which operators run."),
    ),
    sections=(
        Section(
            "Now",
            (
                stat_panel(
                    "Leaders",
                    Query(f"sum(videojob_operator_leader{{{OPERATORS}}})"),
                    "One operator plans and writes. None for longer than 15 s: nobody does.",
                    thresholds=((None, "red"), (1, "green"), (2, "red")),
                    runbook="VideojobOperatorLoopStale",
                ),
                stat_panel(
                    "Operators",
                    Query(f"count by (version) (videojob_operator_build_info{{{OPERATORS}}})", "{{version}}"),
                    "Operators that answer Prometheus, by version. The others stand by with warm caches.",
                ),
                stat_panel(
                    "Age of the loop",
                    Query("max(" + leading(f"videojob_operator_loop_age_seconds{{{OPERATORS}}}") + ")"),
                    "Seconds since the leader's planning loop last went round.",
                    unit="s",
                    thresholds=((None, "green"), (30, "orange"), (60, "red")),
                    runbook="VideojobOperatorLoopStale",
                ),
                stat_panel(
                    "Plan, p99",
                    Query(quantile(0.99, "videojob_operator_planning_seconds", OPERATORS)),
                    "Seconds that one pass over all jobs takes.",
                    unit="s",
                    thresholds=((None, "green"), (1, "orange")),
                ),
                stat_panel(
                    "Writes throttled",
                    Query(or_zero(f'sum(increase({WRITES}, code="429"}}[$window]))')),
                    "API writes within the window that the API server put off (429).",
                    thresholds=((None, "green"), (1, "orange")),
                    runbook="VideojobApiThrottled",
                ),
                stat_panel(
                    "Files left behind",
                    Query("max(" + leading(f"videojob_orphaned_prefixes{{{OPERATORS}}}") + ")"),
                    "Deleted jobs whose files are still in a store; the leader tries again.",
                    thresholds=((None, "green"), (1, "orange")),
                    runbook="VideojobStoreErrors",
                ),
            ),
        ),
        Section(
            "Planning",
            (
                state_timeline(
                    "Who leads",
                    Query(f"max by (instance) (videojob_operator_leader{{{OPERATORS}}})", "{{instance}}"),
                    "The Lease makes sure that it is never two.",
                    {"0": ("stands by", "text"), "1": ("leads", "green")},
                    runbook="VideojobOperatorLoopStale",
                ),
                time_series(
                    "Age of the loop",
                    (
                        Query(
                            f"max by (instance) (videojob_operator_loop_age_seconds{{{OPERATORS}}})",
                            "{{instance}}",
                        ),
                    ),
                    "Seconds since the planning loop last went round.",
                    unit="s",
                    thresholds=((None, "green"), (60, "red")),
                    runbook="VideojobOperatorLoopStale",
                ),
                time_series(
                    "Seconds a plan takes",
                    tuple(
                        Query(quantile(q, "videojob_operator_planning_seconds", OPERATORS), f"p{q * 100:g}")
                        for q in (0.5, 0.99)
                    ),
                    "Grows with the jobs that are not finished.",
                    unit="s",
                ),
                time_series(
                    "Lag from change to plan",
                    tuple(
                        Query(quantile(q, "videojob_operator_plan_lag_seconds", OPERATORS), f"p{q * 100:g}")
                        for q in (0.5, 0.95, 0.99)
                    ),
                    "From a change to the plan that takes account of it.",
                    unit="s",
                ),
                time_series(
                    "Plans a second",
                    (
                        Query(
                            "sum by (instance) "
                            f"(rate(videojob_operator_planning_seconds_count{{{OPERATORS}}}[$__rate_interval]))",
                            "{{instance}}",
                        ),
                    ),
                    "Changes that come close together are planned at once.",
                    unit="ops",
                ),
                time_series(
                    "Jobs given to replicas a second",
                    (
                        Query(
                            or_zero("sum by (pool) (rate(videojob_assignments_total[$__rate_interval]))"),
                            "{{pool}}",
                        ),
                    ),
                    "What the planning is for.",
                    unit="ops",
                ),
            ),
        ),
        Section(
            "Watching",
            (
                time_series(
                    "Watch events a second",
                    (
                        Query(
                            "sum by (kind) "
                            f"(rate(videojob_operator_watch_events_total{{{OPERATORS}}}[$__rate_interval]))",
                            "{{kind}}",
                        ),
                    ),
                    "Of all operators: each of them watches.",
                    unit="ops",
                ),
                time_series(
                    "Watches that listed all again",
                    (
                        Query(
                            or_zero(
                                "sum by (kind) "
                                f"(increase(videojob_operator_watch_reconnects_total{{{OPERATORS}}}[$window]))"
                            ),
                            "{{kind}}",
                        ),
                    ),
                    "Within the window: a watch broke and could not go on where it was. It should be rare.",
                    runbook="VideojobWatchReconnects",
                ),
                time_series(
                    "Changes that a watch did not bring",
                    (
                        Query(
                            or_zero(
                                "sum by (kind) "
                                f"(increase(videojob_operator_missed_changes_total{{{OPERATORS}}}[$window]))"
                            ),
                            "{{kind}}",
                        ),
                    ),
                    "Within the window; an audit found them. They should be none.",
                    runbook="VideojobMissedChanges",
                ),
                time_series(
                    "Seconds since a watch proved itself",
                    (
                        Query(
                            f"max by (kind) (videojob_operator_watch_age_seconds{{{OPERATORS}}})",
                            "{{kind}}",
                        ),
                    ),
                    "The longest of all operators: what has changed since then may not be known to it.",
                    unit="s",
                    runbook="VideojobWatchReconnects",
                ),
                time_series(
                    "Objects that cannot be read",
                    (
                        Query(
                            or_zero(f"max by (kind) (videojob_operator_unreadable_objects{{{OPERATORS}}})"),
                            "{{kind}}",
                        ),
                    ),
                    "Each stays as it last could be read, and nothing new is decided on it.",
                    runbook="VideojobUnreadableObjects",
                ),
                time_series(
                    "Jobs that their replica does not name",
                    (Query("max(" + leading(f"videojob_jobs_unclaimed{{{OPERATORS}}}") + ")", "jobs"),),
                    "Of assigned jobs, by the latest reports. One that stays so is taken back.",
                    runbook="VideojobUnclaimedJobs",
                ),
            ),
        ),
        Section(
            "Writing",
            (
                time_series(
                    "API writes a second, by kind",
                    (
                        Query(
                            f"sum by (verb, kind) (rate({WRITES}}}[$__rate_interval]))",
                            "{{verb}} {{kind}}",
                        ),
                    ),
                    "A job that starts at once costs two.",
                    unit="ops",
                ),
                time_series(
                    "API writes a second, by answer",
                    (Query(f"sum by (code) (rate({WRITES}}}[$__rate_interval]))", "{{code}}"),),
                    "409: somebody else changed it, and the next plan sees it. 429: the API server puts us off. 0: no "
                    "answer.",
                    unit="ops",
                    stacked=True,
                    runbook="VideojobApiThrottled",
                ),
                time_series(
                    "Seconds an API write takes, p95",
                    (
                        Query(
                            quantile(0.95, "videojob_operator_api_write_seconds", OPERATORS, "verb, kind"),
                            "{{verb}} {{kind}}",
                        ),
                    ),
                    "From the request to the answer.",
                    unit="s",
                    runbook="VideojobApiThrottled",
                ),
                time_series(
                    "Runners' writes tried again",
                    (
                        Query(
                            or_zero('sum by (pool) (increase(videojob_runner_retries_total{what="api"}[$window]))'),
                            "{{pool}}",
                        ),
                    ),
                    "Within the window: how the API server does as runners see it.",
                    runbook="VideojobApiThrottled",
                ),
                time_series(
                    "Events not posted",
                    (
                        Query(
                            or_zero(f"sum(increase(videojob_operator_events_dropped_total{{{OPERATORS}}}[$window]))"),
                            "Events",
                        ),
                    ),
                    "Within the window. Kubernetes Events are given up under load, status writes are not.",
                ),
                time_series(
                    "Errors of the object store",
                    (
                        Query(
                            or_zero("sum by (pool) (increase(videojob_runner_store_errors_total[$window]))"),
                            "{{pool}}",
                        ),
                    ),
                    "Within the window, as runners meet them.",
                    runbook="VideojobStoreErrors",
                ),
            ),
        ),
        Section(
            "Process",
            (
                time_series(
                    "Memory",
                    (Query(_process("process_resident_memory_bytes"), "{{instance}}"),),
                    "Resident memory of each operator.",
                    unit="bytes",
                ),
                time_series(
                    "CPU",
                    (
                        Query(
                            f"rate(process_cpu_seconds_total{{{OPERATORS}}}[$__rate_interval]) "
                            "and on (instance) videojob_operator_build_info",
                            "{{instance}}",
                        ),
                    ),
                    "Cores that each operator uses.",
                ),
                time_series(
                    "Open files",
                    (Query(_process("process_open_fds"), "{{instance}}"),),
                    "File descriptors of each operator.",
                ),
            ),
        ),
    ),
)
