"""An operator process: the real Operator with all its parts, on virtual time and on this network.

Only what is outside takes another form: the client's transport, clocks and random numbers, the object stores, and kopf,
whose place the project's own watches take. They report as kopf does: object by object, and never what vanished while
they were disconnected.
"""

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

from kubernetes.aio.client.configuration import Configuration

from tests.simulation.clock import Clock
from tests.simulation.process import Process
from tests.simulation.world import World
from videojob.controller import operator as wiring
from videojob.controller.settings import Settings
from videojob.kube.client import Json, KubeClient, Listing, ResourceKind
from videojob.planner.facts import Moment

SETTINGS = replace(Settings(), plan_share=1.0)
"""How long a plan takes in real time must not change a history."""


async def operator(world: World, process: Process, clock: Clock, rng: random.Random) -> None:
    """Run until the process dies."""
    with _installed(world, process, clock, rng):
        made = wiring.Operator(cast("Configuration", SimpleNamespace(host="https://api")), SETTINGS)
    await made.run()


@contextmanager
def _installed(world: World, process: Process, clock: Clock, rng: random.Random) -> Iterator[None]:
    clients: list[KubeClient] = []

    def client(configuration: Configuration, observe: object, contact: Any) -> KubeClient:
        clients.append(world.network.client(process, contact))
        return clients[-1]

    def shell(
        configuration: object, namespace: object, kinds: Any, seen: Any, relisted: Any, **_: object
    ) -> "_Watches":
        return _Watches(clients[0], kinds, seen, relisted)

    with patch.multiple(
        wiring,
        KubeClient=client,
        Shell=shell,
        monotonic=clock.monotonic,
        utc_now=clock.now,
        clock=lambda: Moment(clock.now(), clock.monotonic()),
        random=SimpleNamespace(SystemRandom=lambda: rng),
        socket=SimpleNamespace(gethostname=lambda: process.name),
        uuid=SimpleNamespace(uuid4=lambda: SimpleNamespace(hex="0")),
    ):
        yield


@contextmanager
def installed(world: World) -> Iterator[None]:
    """What the wiring looks up while it runs."""
    with patch.object(wiring, "monotonic", world.clock.monotonic):
        yield


class _Watches:
    """In the place of the Shell."""

    def __init__(
        self,
        client: KubeClient,
        kinds: Sequence[ResourceKind],
        seen: Callable[[ResourceKind, str, Json], None],
        relisted: Callable[[ResourceKind, bool], None],
    ) -> None:
        self._client = client
        self._kinds = kinds
        self._seen = seen
        self._relisted = relisted
        self.proved: dict[ResourceKind, float] = {}

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for kind in self._kinds:
                group.create_task(self._watch(kind))

    async def _watch(self, kind: ResourceKind) -> None:
        first = True
        async for event in self._client.watch(kind):
            if isinstance(event, Listing):
                for item in event.items:
                    self._seen(kind, "LISTED", item)
                self._relisted(kind, first)
                first = False
            else:
                self._seen(kind, event.type, event.object)

    def healthy(self) -> str | None:
        return None
