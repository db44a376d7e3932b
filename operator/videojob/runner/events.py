"""Kubernetes Events on a job: the few transitions that a person cares about."""

import asyncio
import logging
from typing import Any, Literal

from videojob.api import API_VERSION
from videojob.api.videojob import VideoJob
from videojob.kube.client import EVENTS, KubeClient, KubeError
from videojob.runner.clock import Clock
from videojob.runner.hold import Permission, Standing

log = logging.getLogger(__name__)

EVENTS_PER_ATTEMPT = 10
WRITE_SECONDS = 5.0
"""No job waits for longer than that for one of its Events."""
MESSAGE_LIMIT = 1024
COMPONENT = "videojob-runner"


class Events:
    """Writes at most ten Events for an attempt; one that cannot be written is logged and forgotten."""

    def __init__(self, kube: KubeClient, clock: Clock, job: VideoJob, replica: str, permission: Permission) -> None:
        self._kube = kube
        self._permission = permission
        self._clock = clock
        self._job = job.metadata
        self._replica = replica
        self._left = EVENTS_PER_ATTEMPT

    async def write(self, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """Write down what happened, unless the runner is cut off."""
        if self._left == 0 or self._permission.standing is not Standing.FRESH:
            return
        self._left -= 1
        now = self._clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        body: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{self._job.name}.", "namespace": self._job.namespace},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": "VideoJob",
                "namespace": self._job.namespace,
                "name": self._job.name,
                "uid": self._job.uid,
            },
            "type": kind,
            "reason": reason,
            "message": message[:MESSAGE_LIMIT],
            "source": {"component": COMPONENT, "host": self._replica},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._replica,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await self._kube.create(EVENTS, body, self._job.namespace)
        except (KubeError, TimeoutError) as error:
            log.warning("An Event was not written: %s", error or "the API server does not answer")
