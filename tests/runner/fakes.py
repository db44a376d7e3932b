"""A clock that the test moves, a hold in the state that it wants, an API server with one job that fails on demand."""

import copy
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from videojob.kube.client import Json, KubeClient, KubeError, ResourceKind
from videojob.runner.clock import Clock
from videojob.runner.hold import Hold

LEASE_SECONDS, CUT_OFF_SECONDS = 15.0, 1800.0
BROKEN_FENCE = KubeError(422, "the server rejected our request due to an error in our request")
SILENT = KubeError(0, "connection refused")
FORBIDDEN = KubeError(403, 'videojobs.videojob.dev "film" is forbidden')
INVALID = KubeError(422, "VideoJob is invalid: status.phase: Unsupported value")


class Time:
    """Two clocks that stand still until they are moved on."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.start = datetime(2026, 1, 1, tzinfo=UTC)
        self.clock = Clock(lambda: self.start + timedelta(seconds=self.seconds), lambda: self.seconds)

    def hold(self, *, taken: bool = True) -> Hold:
        """A hold on the Lease: fresh now, or lost."""
        hold = Hold(LEASE_SECONDS, CUT_OFF_SECONDS, self.clock.monotonic)
        if taken:
            hold.take(self.seconds)
        return hold


def fresh() -> Hold:
    """A hold that stays fresh."""
    return Time().hold()


class Api:
    """An API server with one job. Requests fail with what `answers` holds, in order, and then succeed."""

    def __init__(self, job: Json) -> None:
        self.job = job
        self.answers: deque[KubeError | None] = deque()
        """One for each PATCH: None is a success."""
        self.always: KubeError | None = None
        """Every PATCH fails with this."""
        self.requests: list[str] = []
        self.events: list[Json] = []
        self.lose_answers = 0
        """PATCHes that take place, and whose answer is lost."""

    @property
    def client(self) -> KubeClient:
        """As those under test take it."""
        return cast("KubeClient", self)

    @property
    def status(self) -> Json:
        """Of the job."""
        return cast("Json", self.job["status"])

    async def get(self, kind: ResourceKind, name: str, namespace: str | None = None) -> Json:
        self.requests.append("GET")
        if not self.job:
            raise KubeError(404, "not found")
        return copy.deepcopy(self.job)

    async def create(self, kind: ResourceKind, body: Json, namespace: str | None = None) -> Json:
        self.events.append(body)
        return body

    async def json_patch(
        self, kind: ResourceKind, name: str, operations: Sequence[Json], namespace: str, subresource: str
    ) -> Json:
        self.requests.append("PATCH")
        error = self.always or (self.answers.popleft() if self.answers else None)
        if error is not None:
            raise error
        if not self.job:
            raise KubeError(404, "not found")
        patched = copy.deepcopy(self.job)
        for operation in operations:
            _apply(patched, operation)
        self.job = patched
        if self.lose_answers:
            self.lose_answers -= 1
            raise SILENT
        return patched


def _apply(target: Any, operation: Json) -> None:
    *parents, last = operation["path"].strip("/").split("/")
    for part in parents:
        target = target.get(part)
        if not isinstance(target, dict):
            raise BROKEN_FENCE
    if operation["op"] == "add":
        target[last] = operation["value"]
    elif last not in target or (operation["op"] == "test" and target[last] != operation["value"]):
        raise BROKEN_FENCE
    elif operation["op"] == "remove":
        del target[last]
