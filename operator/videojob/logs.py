"""Logs: JSON lines for a cluster, text for a terminal; a record that is about a job names it.

`about` names the job for everything that is logged within it, in tasks and threads that are started there as well.
Nothing here, and no caller, logs a prompt.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import Literal

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

Format = Literal["json", "text"]


@dataclass(frozen=True)
class _About:
    job_uid: str
    job_namespace: str
    job_name: str
    attempt: int


_ABOUT: ContextVar[_About | None] = ContextVar("about", default=None)
# What kopf attaches to its records for its own use; `settings` is a page long.
_KOPFS = ("settings", "k8s_skip", "k8s_ref")


@contextmanager
def about(uid: str, namespace: str, name: str, attempt: int) -> Iterator[None]:
    """Within it, records carry the job as `job_uid`, `job_namespace`, `job_name` and `attempt`."""
    token = _ABOUT.set(_About(uid, namespace, name, attempt))
    try:
        yield
    finally:
        _ABOUT.reset(token)


def configure(format: Format, component: str) -> None:  # noqa: A002 - the option's name
    """Log everything from INFO on to stderr, and nothing anywhere else: what was configured before is gone.

    JSON has `time` (RFC 3339, UTC), `level`, `logger`, `message`, `component`, the job where there is one, `exc_info`
    where there is an exception, and whatever a caller gave as `extra`.
    """
    handler = logging.StreamHandler()
    handler.addFilter(_add_job)
    handler.setFormatter(_json(component) if format == "json" else _Text())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def _json(component: str) -> logging.Formatter:
    return JsonFormatter(
        ("levelname", "name", "message"),
        rename_fields={"levelname": "level", "name": "logger"},
        static_fields={"component": component},
        timestamp="time",
        reserved_attrs=[*RESERVED_ATTRS, *_KOPFS, "taskName"],
        json_ensure_ascii=False,
    )


class _Text(logging.Formatter):
    """One line a record, with the job at its end."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        line = super().formatMessage(record)
        job = _ABOUT.get()
        return line if job is None else f"{line} [{job.job_namespace}/{job.job_name} #{job.attempt}]"


def _add_job(record: logging.LogRecord) -> bool:
    job = _ABOUT.get()
    if job is not None:
        for name, value in asdict(job).items():
            if not hasattr(record, name):  # A caller's own `extra` is more exact.
                setattr(record, name, value)
    return True
