"""Names of the metrics that there are, as Prometheus stores them."""

import re

from dev.metrics_doc import document

TRITON = frozenset(
    {
        "nv_inference_request_success",
        "nv_inference_request_failure",
        "nv_inference_queue_duration_us",
        "nv_inference_compute_infer_duration_us",
        "nv_inference_pending_request_count",
        "nv_gpu_utilization",
        "nv_gpu_memory_used_bytes",
        "nv_gpu_memory_total_bytes",
        "nv_gpu_power_usage",
    }
)
"""Of Triton's metrics (docs/user_guide/metrics.md there), those that we use."""
PROCESS = frozenset({"process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"})
"""Of the process collector's metrics, which the operator exports, those that we use."""
PROMETHEUS = frozenset({"ALERTS"})

_ROW = re.compile(r"^\| `(?P<name>\w+)` \| (?P<type>\w+) \|", re.MULTILINE)
_WORD = re.compile(r"(?<![:\w])(?:(?:videojob|nv|process)_\w+|ALERTS)\b(?!:)")
_TEXT = re.compile(r'"[^"]*"')


def exported() -> frozenset[str]:
    """Every name that operator, runner, Triton and Prometheus export."""
    names = set(TRITON | PROCESS | PROMETHEUS)
    for row in _ROW.finditer(document()):
        if row["type"] == "histogram":
            names |= {f"{row['name']}_{part}" for part in ("bucket", "sum", "count")}
        else:
            names.add(row["name"])
    return frozenset(names)


def named(expr: str) -> frozenset[str]:
    """The metrics that an expression reads; not the series that our own rules record, which have colons."""
    return frozenset(_WORD.findall(_TEXT.sub('""', expr)))
