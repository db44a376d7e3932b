"""Which of several operators writes: the holder of a Lease.

The official client's election is not used: it measures its renew deadline on the wall clock, puts no time limit on a
request (one that hangs keeps a lost leader leading), ends on any error that is not an HTTP status, and never releases.

Rules, as in client-go: a follower takes the Lease when it has not seen it change for its whole duration, on its own
monotonic clock, or when it was released; every write is fenced by the resource version. The leader counts from the
moment before it sent the renewal that succeeded, and stops leading `renew_deadline_seconds` later: sooner than anyone
may take over, because the follower began to count no earlier and waits for longer.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from videojob.kube.answers import AnswerError, identified
from videojob.kube.client import LEASES, Json, KubeClient, KubeError

logger = logging.getLogger(__name__)

LEASE_NAME = "videojob-operator"
RETRY_SECONDS = 0.5
LONGEST_SECONDS = 3600
"""A Lease whose holder claims it for longer says nothing about how long to wait for the holder."""


class Leadership:
    """Whether this operator may write, for those who write.

    Keep the `term` in which a decision was made, and ask `holds` before each write: in a later term another operator
    may have led in between.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._until = -math.inf
        self._term = 0

    @property
    def leading(self) -> bool:
        """True only while nobody else can lead."""
        return self._monotonic() < self._until

    @property
    def term(self) -> int:
        """How often the leadership was acquired; it rises with every acquisition."""
        return self._term

    def holds(self, term: int) -> bool:
        """Whether this operator still leads, and has never ceased to since the term began."""
        return term == self._term and self.leading

    def left(self) -> float:
        """Seconds that this operator still leads without a renewal."""
        return max(self._until - self._monotonic(), 0.0)

    def acquire(self, until: float) -> None:
        """Begin a term that ends, unless it is renewed, at that monotonic time."""
        self._term += 1
        self._until = until

    def renew(self, until: float) -> None:
        """Go on with the term until that monotonic time."""
        self._until = until

    def end(self) -> None:
        """End the term."""
        self._until = -math.inf


@dataclass
class _Seen:
    """What the Lease said, and when that was first seen."""

    content: tuple[str, str]
    """Holder and renewTime."""
    at: float


class Election:
    """Takes part in the election, and keeps the `leadership`."""

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        identity: str,
        *,
        lease_seconds: float,
        renew_deadline_seconds: float,
        renew_seconds: float,
        monotonic: Callable[[], float],
        started: Callable[[], None],
        stopped: Callable[[], None],
    ) -> None:
        """`started` and `stopped` are called when this operator begins and ceases to lead, in turns."""
        self._client = client
        self._namespace = namespace
        self._identity = identity
        self._lease_seconds = lease_seconds
        self._deadline_seconds = renew_deadline_seconds
        self._renew_seconds = renew_seconds
        self._monotonic = monotonic
        self._started = started
        self._stopped = stopped
        self._in_office = False
        self._seen: _Seen | None = None
        self.leadership = Leadership(monotonic)

    async def run(self) -> None:
        """Follow and lead, until cancelled."""
        while True:
            began = self._monotonic()
            limit = max(self.leadership.left(), 0.01) if self._in_office else self._deadline_seconds
            held: bool | None = None
            try:
                async with asyncio.timeout(limit):
                    held = await self._try()
            except (KubeError, TimeoutError) as error:
                logger.warning("The leader's Lease cannot be read or written: %s", str(error) or "no answer in time")
            except Exception:
                logger.exception("The leader's Lease cannot be renewed or taken")
            if self._in_office and (held is False or not self.leadership.leading):
                self._follow()
            if held:
                self._lead(began + self._deadline_seconds)
            await asyncio.sleep(self._pause(held))

    async def release(self) -> None:
        """Give the Lease up, so that another operator need not wait for it to expire."""
        if not self._in_office:
            return
        self._follow()
        try:
            async with asyncio.timeout(self._deadline_seconds):
                lease = await self._get()
                spec = _read(lease or {})
                if lease is not None and spec.holder == self._identity:
                    given_up = spec.body | {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}
                    await self._client.replace(LEASES, LEASE_NAME, lease | {"spec": given_up}, self._namespace)
        except (KubeError, TimeoutError) as error:
            logger.warning("The leader's Lease was not released, and will expire: %s", error)

    async def _try(self) -> bool | None:
        """Renew or take the Lease: True if it is ours now, False if another's, None where a write met a conflict."""
        lease = await self._get()
        fresh = lease is None
        lease = lease or {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": LEASE_NAME, "namespace": self._namespace},
        }
        spec = _read(lease)
        if spec.holder not in ("", self._identity) and not self._expired(spec):
            return False
        taken = spec.body | {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._lease_seconds)),
            "renewTime": _now(),
        }
        if spec.holder != self._identity:
            taken |= {"acquireTime": _now(), "leaseTransitions": spec.transitions + 1}
        # What else was in it is replaced. The fence is the resourceVersion, which stays in the metadata.
        lease = lease | {"spec": taken}
        try:
            if fresh:
                await self._client.create(LEASES, lease, self._namespace)
            else:
                await self._client.replace(LEASES, LEASE_NAME, lease, self._namespace)
        except KubeError as error:
            if error.conflict:
                return None
            raise
        if spec.holder != self._identity and self._in_office:
            self._follow()  # Another one may have led since the last renewal: this is a new term.
        return True

    async def _get(self) -> Json | None:
        """The Lease, with a version to fence by; None where there is none."""
        try:
            lease = await self._client.get(LEASES, LEASE_NAME, self._namespace)
        except KubeError as error:
            if error.not_found:
                return None
            raise
        if not identified(lease):
            raise AnswerError("the answer is no Lease")
        return lease

    def _expired(self, spec: "_Spec") -> bool:
        content = (spec.holder, spec.renewed)
        now = self._monotonic()
        if self._seen is None or self._seen.content != content:
            self._seen = _Seen(content, now)
        return now - self._seen.at >= (spec.seconds or self._lease_seconds)

    def _lead(self, until: float) -> None:
        if self._in_office:
            self.leadership.renew(until)
            return
        self._in_office = True
        self.leadership.acquire(until)
        logger.info("This operator leads now (%s).", self._identity)
        _call(self._started)

    def _follow(self) -> None:
        self._in_office = False
        self.leadership.end()
        logger.info("This operator does not lead any more (%s).", self._identity)
        _call(self._stopped)

    def _pause(self, held: bool | None) -> float:
        """Until the next try: sooner where a leader could not renew, and never beyond the end of its time."""
        if not self._in_office:
            return self._renew_seconds
        return min(self._renew_seconds if held else RETRY_SECONDS, self.leadership.left())


@dataclass(frozen=True)
class _Spec:
    """What can be read of a Lease: what makes no sense counts as absent."""

    holder: str
    renewed: str
    seconds: float | None
    transitions: int
    body: Json
    """The fields that make sense, as they are kept."""


def _read(lease: Json) -> _Spec:
    given = lease.get("spec")
    spec = given if isinstance(given, dict) else {}
    holder, renewed, acquired = (spec.get(key) for key in ("holderIdentity", "renewTime", "acquireTime"))
    seconds, transitions = spec.get("leaseDurationSeconds"), spec.get("leaseTransitions")
    counted = transitions if isinstance(transitions, int) and 0 <= transitions < 2**31 - 1 else 0
    body: Json = {"leaseTransitions": counted}
    if _is_time(acquired):
        body["acquireTime"] = acquired
    return _Spec(
        holder=holder if isinstance(holder, str) else "",
        renewed=renewed if isinstance(renewed, str) else "",
        seconds=float(seconds) if isinstance(seconds, int) and 0 < seconds <= LONGEST_SECONDS else None,
        transitions=counted,
        body=body,
    )


def _is_time(text: object) -> bool:
    try:
        return isinstance(text, str) and datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _call(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:
        logger.exception("The change of leadership met an error")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
