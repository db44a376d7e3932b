"""Requests that only the leader may send.

Whoever carries a decision out does it with a client of this kind: every attempt of every request is preceded by the one
check whether this operator still leads, in the term in which the decision was begun. So a decision of several requests
ends in the middle where leadership was lost, however long one of them took.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from videojob.kube.client import KubeError, ResourceKind

Json = dict[str, Any]
Answer = TypeVar("Answer")

TRIES = 4
"""Attempts of one request."""


class Leadership(Protocol):
    """Whether this operator leads."""

    @property
    def leading(self) -> bool:
        """Whether it may write now."""

    @property
    def term(self) -> int:
        """Rises with each time that it begins to lead."""


class DeposedError(Exception):
    """Another operator may lead, or may have led meanwhile: nothing more may be written."""


class Requests(Protocol):
    """The part of `KubeClient` that is used here."""

    async def get(self, kind: ResourceKind, name: str, namespace: str | None = None) -> Json:
        """See KubeClient."""

    async def list(self, kind: ResourceKind, namespace: str | None = None, **selectors: str) -> Json:
        """See KubeClient."""

    async def json_patch(
        self,
        kind: ResourceKind,
        name: str,
        operations: Sequence[Json],
        namespace: str | None = None,
        subresource: str | None = None,
    ) -> Json:
        """See KubeClient."""

    async def merge_patch(
        self,
        kind: ResourceKind,
        name: str,
        body: Json,
        namespace: str | None = None,
        subresource: str | None = None,
    ) -> Json:
        """See KubeClient."""

    async def apply(self, kind: ResourceKind, name: str, body: Json, namespace: str, manager: str) -> Json:
        """See KubeClient."""

    async def delete(
        self, kind: ResourceKind, name: str, namespace: str | None = None, preconditions: Json | None = None
    ) -> None:
        """See KubeClient."""


class LeaderClient:
    """The requests of one decision. Each raises KubeError, or DeposedError where it must not be sent."""

    def __init__(self, requests: Requests, leadership: Leadership) -> None:
        self._requests = requests
        self._leadership = leadership
        self._term = leadership.term

    @property
    def leading(self) -> bool:
        """Whether requests may still be sent."""
        return self._leadership.leading and self._leadership.term == self._term

    def check(self) -> None:
        """To be called before anything else is changed, as in a store. Raises DeposedError."""
        if not self.leading:
            raise DeposedError

    async def get(self, kind: ResourceKind, name: str, namespace: str | None = None) -> Json:
        """One object."""
        return await self._send(lambda: self._requests.get(kind, name, namespace))

    async def list(self, kind: ResourceKind, namespace: str | None = None, **selectors: str) -> Json:
        """A collection."""
        return await self._send(lambda: self._requests.list(kind, namespace, **selectors))

    async def json_patch(
        self,
        kind: ResourceKind,
        name: str,
        operations: Sequence[Json],
        namespace: str | None = None,
        subresource: str | None = None,
    ) -> Json:
        """Apply a JSON patch; a `test` that does not hold is a conflict."""
        return await self._send(lambda: self._requests.json_patch(kind, name, operations, namespace, subresource))

    async def merge_patch(self, kind: ResourceKind, name: str, body: Json, namespace: str | None = None) -> Json:
        """Apply a merge patch."""
        return await self._send(lambda: self._requests.merge_patch(kind, name, body, namespace))

    async def apply(self, kind: ResourceKind, name: str, body: Json, namespace: str, manager: str) -> Json:
        """Server-side apply."""
        return await self._send(lambda: self._requests.apply(kind, name, body, namespace, manager))

    async def delete(self, kind: ResourceKind, name: str, namespace: str | None, preconditions: Json) -> None:
        """Delete an object, if it still has that uid and resourceVersion."""
        await self._send(lambda: self._requests.delete(kind, name, namespace, preconditions))

    async def _send(self, request: Callable[[], Awaitable[Answer]]) -> Answer:
        """One request, tried a bounded number of times where the API server cannot answer it now."""
        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, KubeError) and error.transient),
            wait=_pause,
            stop=stop_after_attempt(TRIES),
            reraise=True,
        )
        return await retrying(self._attempt, request)

    async def _attempt(self, request: Callable[[], Awaitable[Answer]]) -> Answer:
        self.check()
        return await request()


_backoff = wait_random_exponential(multiplier=0.1, max=5)


def _pause(state: RetryCallState) -> float:
    """Exponential with jitter, or longer where the API server asks for it."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, KubeError) else None
    return max(_backoff(state), asked or 0.0)
