"""Who leads. Most against the real API server; one that hangs is a fake, because a real one does not hang on demand."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, cast

import pytest

from dev.control_plane import NAMESPACE
from tests.controller.world import until
from videojob.controller.election import LEASE_NAME, Election
from videojob.kube.client import LEASES, KubeClient, KubeError


class Candidate:
    """An election with short times, and when it led."""

    def __init__(self, client: Any, name: str) -> None:
        self.spans: list[list[float]] = []
        self.election = Election(
            cast("KubeClient", client),
            NAMESPACE,
            name,
            lease_seconds=1,
            renew_deadline_seconds=0.6,
            renew_seconds=0.2,
            monotonic=monotonic,
            started=lambda: self.spans.append([monotonic()]),
            stopped=lambda: self.spans[-1].append(monotonic()),
        )

    async def leads(self) -> None:
        async def look() -> bool | None:
            return True if self.election.leading else None

        await until(look, "the candidate leads")


@asynccontextmanager
async def running(*candidates: Candidate) -> AsyncIterator[list["asyncio.Task[None]"]]:
    tasks = [asyncio.create_task(candidate.election.run()) for candidate in candidates]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def fresh(client: KubeClient) -> KubeClient:
    """A cluster in which nobody leads."""
    try:
        await client.delete(LEASES, LEASE_NAME, NAMESPACE)
    except KubeError as error:
        assert error.not_found
    return client


async def test_one_of_two_leads_and_the_other_follows_when_it_dies(fresh: KubeClient) -> None:
    first, second = Candidate(fresh, "first"), Candidate(fresh, "second")
    async with running(first) as (task,):
        await first.leads()
        async with running(second):
            lease = await fresh.get(LEASES, LEASE_NAME, NAMESPACE)
            assert lease["spec"]["holderIdentity"] == "first"
            assert not second.election.leading
            task.cancel()
            await second.leads()
            assert not first.election.leading, "the first one's time was over before the second one's began"
            lease = await fresh.get(LEASES, LEASE_NAME, NAMESPACE)
            assert lease["spec"]["leaseTransitions"] == 2


async def test_a_lease_that_was_released_is_taken_at_once(fresh: KubeClient) -> None:
    first, second = Candidate(fresh, "first"), Candidate(fresh, "second")
    async with running(first):
        await first.leads()
    await first.election.release()
    assert not first.election.leading
    async with running(second):
        await second.leads()


async def test_a_leader_that_finds_another_holder_stops(fresh: KubeClient) -> None:
    first = Candidate(fresh, "first")
    async with running(first):
        await first.leads()
        stolen = {"spec": {"holderIdentity": "thief", "leaseDurationSeconds": 3600}}
        await fresh.merge_patch(LEASES, LEASE_NAME, stolen, NAMESPACE)

        async def stopped() -> bool | None:
            return True if first.spans and len(first.spans[-1]) == 2 else None

        await until(stopped, "the first one stops")
        assert not first.election.leading


class Hangs:
    """Passes requests on until it hangs."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self.hanging = False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        async def call(*arguments: Any) -> Any:
            if self.hanging:
                await asyncio.Event().wait()
            return await method(*arguments)

        return call


async def test_a_leader_whose_requests_hang_stops_before_anyone_else_may_lead(fresh: KubeClient) -> None:
    proxy = Hangs(fresh)
    first, second = Candidate(proxy, "first"), Candidate(fresh, "second")
    async with running(first):
        await first.leads()
        async with running(second):
            proxy.hanging = True
            await second.leads()
            assert first.spans[0][1] < second.spans[0][0]
