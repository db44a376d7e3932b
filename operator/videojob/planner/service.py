"""Who was served lately: whether a store or a replica worked for one job while it failed for another."""

from collections.abc import Hashable
from datetime import datetime
from typing import NamedTuple


class ServedJob(NamedTuple):
    """A job that had progress."""

    uid: str
    at: datetime


class Service:
    """The last two jobs with progress, by whatever served them."""

    def __init__(self) -> None:
        self._last: dict[Hashable, tuple[ServedJob, ...]] = {}

    def put(self, server: Hashable, uid: str, at: datetime) -> None:
        """The server has served the job: a chunk of it was committed."""
        others = (served for served in self._last.get(server, ()) if served.uid != uid)
        self._last[server] = (ServedJob(uid, at), *others)[:2]

    def served_other(self, server: Hashable, uid: str, since: datetime) -> bool:
        """Whether another job was served at that moment or later."""
        return any(served.uid != uid and served.at >= since for served in self._last.get(server, ()))
