"""Kubernetes Events for people: few, aggregated, and never in the way of the work.

An Event that was posted not long ago is not posted again; what does not fit in the queue is dropped and counted. Losing
one loses nothing: conditions are the truth.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal, NamedTuple, Protocol

from prometheus_client import Counter

from videojob.api import API_VERSION, MANAGER
from videojob.api.conditions import MESSAGE_LIMIT
from videojob.kube.client import EVENTS, KubeClient, KubeError

logger = logging.getLogger(__name__)

QUEUE_SIZE = 256
REMEMBERED = 1024
REPEAT_SECONDS = 600.0


EventType = Literal["Normal", "Warning"]


class Subject(Protocol):
    """The VideoJob that an Event is on."""

    @property
    def namespace(self) -> str:
        """Of the job."""

    @property
    def name(self) -> str:
        """Of the job."""

    @property
    def uid(self) -> str:
        """Of the job."""


class _Event(NamedTuple):
    namespace: str
    name: str
    uid: str
    type: EventType
    reason: str
    message: str


class Recorder:
    """Posts Events on VideoJobs, one after the other."""

    def __init__(self, client: KubeClient, identity: str, monotonic: Callable[[], float], dropped: Counter) -> None:
        self._client = client
        self._identity = identity
        self._monotonic = monotonic
        self._dropped = dropped
        self._queue: asyncio.Queue[_Event] = asyncio.Queue(QUEUE_SIZE)
        self._posted: OrderedDict[_Event, float] = OrderedDict()

    def post(self, job: Subject, type_: EventType, reason: str, message: str) -> None:
        """Post an Event on the job, some time soon."""
        event = _Event(job.namespace, job.name, job.uid, type_, reason, message[:MESSAGE_LIMIT])
        now = self._monotonic()
        posted = self._posted.get(event)
        if posted is not None and now - posted < REPEAT_SECONDS:
            return
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            self._dropped.inc()
            return
        self._posted[event] = now
        self._posted.move_to_end(event)
        while len(self._posted) > REMEMBERED:
            self._posted.popitem(last=False)

    async def run(self) -> None:
        """Post what is queued, until cancelled."""
        while True:
            event = await self._queue.get()
            try:
                await self._client.create(EVENTS, self._body(event), event.namespace)
            except KubeError as error:
                self._dropped.inc()
                logger.warning("Event %s on %s/%s was not posted: %s", event.reason, *event[:2], error)

    def _body(self, event: _Event) -> dict[str, object]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{event.name}.", "namespace": event.namespace},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": "VideoJob",
                "namespace": event.namespace,
                "name": event.name,
                "uid": event.uid,
            },
            "type": event.type,
            "reason": event.reason,
            "message": event.message,
            "source": {"component": MANAGER},
            "reportingComponent": MANAGER,
            "reportingInstance": self._identity,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
