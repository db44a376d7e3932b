"""The operator's constants. Those that are no command-line options are here so that tests can make time shorter."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from videojob.health import EVERYWHERE
from videojob.logs import Format
from videojob.planner.decisions import Lane
from videojob.planner.rules import DEFAULT_RULES, Rules
from videojob.workload.deployment import PodDefaults

LANES: Mapping[Lane, int] = MappingProxyType(
    {Lane.JOBS: 32, Lane.WAITS: 2, Lane.FILES: 8, Lane.POOLS: 4, Lane.STATUSES: 2}
)


@dataclass(frozen=True)
class Settings:
    """How the operator runs. All times are seconds."""

    namespace: str = "videojob-system"
    """Where the Leases of replicas and of the leader, the Secrets of stores and the list of orphaned files are."""
    watch_namespace: str | None = None
    """The only namespace whose jobs and queues are served, by pools that name it; None for all of them."""
    pod_defaults: PodDefaults = field(default_factory=PodDefaults)
    """What the pods of pools have in common; its namespace is always `namespace`."""
    log_format: Format = "text"
    """Of this process's log."""
    bind_address: str = EVERYWHERE
    """Address of both ports."""
    health_port: int | None = None
    """Port of /livez and /readyz; None for none."""
    metrics_port: int | None = None
    """Port of /metrics; None for none."""
    rules: Rules = DEFAULT_RULES
    """The planner's constants."""

    lease_seconds: float = 8.0
    """A leader that has not renewed its Lease for so long may be replaced."""
    renew_deadline_seconds: float = 5.0
    """A leader that cannot renew its Lease for so long stops writing: before another one may start."""
    renew_seconds: float = 2.0
    """Pause between renewals, and between a follower's looks at the Lease."""

    plan_pause_seconds: float = 0.02
    """The shortest pause between two plans: changes that come in one pause are planned together."""
    plan_share: float = 0.1
    """The largest part of the time that is spent on planning, however many jobs there are."""
    idle_seconds: float = 5.0
    """The longest pause between two plans."""
    status_seconds: float = 1.0
    """The shortest pause between two writes of the status of one pool or queue."""

    lanes: Mapping[Lane, int] = field(default_factory=lambda: LANES)
    """Decisions of each lane that are carried out at a time."""
    purge_seconds: float = 60.0
    """The longest time that one try to remove a job's files may take."""
    store_patience_seconds: float = 300.0
    """A deleted job waits no longer for a store that fails; its files become orphans, and are removed later."""
    orphan_limit: int = 1000
    """Orphaned prefixes that are remembered: the ConfigMap stays well below its 1 MiB."""
    orphan_retry_seconds: float = 60.0
    """Pause between tries to remove orphaned files."""

    audit_seconds: float = 300.0
    """Pause between comparisons of what is known with what the API server has."""
    audit_grace_seconds: float = 20.0
    """How long a change may take to arrive by the watch before the audit counts it as missed."""
    drain_seconds: float = 10.0
    """How long writes that are under way may take after SIGTERM."""
    stall_seconds: float = 60.0
    """A planning loop that has not turned for so long is not alive."""
