"""Who leads. Most against the real API server; one that hangs is a fake, because a real one does not hang on demand."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, cast

import pytest

from dev.control_plane import NAMESPACE
from tests.controller.world import until
from tests.kube.server import item
from videojob.controller.election import LEASE_NAME, Election
from videojob.kube.client import LEASES, Json, KubeClient, KubeError


class Candidate:
    """An election with short times, and when it led."""

    def __init__(
        self,
        client: Any,
        name: str,
        *,
        monotonic: Callable[[], float] = monotonic,
        started: Callable[[], None] = lambda: None,
        stopped: Callable[[], None] = lambda: None,
    ) -> None:
        self.spans: list[list[float]] = []

        def begin() -> None:
            self.spans.append([monotonic()])
            started()

        def end() -> None:
            self.spans[-1].append(monotonic())
            stopped()

        self.election = Election(
            cast("KubeClient", client),
            NAMESPACE,
            name,
            lease_seconds=1,
            renew_deadline_seconds=0.6,
            renew_seconds=0.2,
            monotonic=monotonic,
            started=begin,
            stopped=end,
        )

    async def leads(self) -> None:
        async def look() -> bool | None:
            return True if self.election.leadership.leading else None

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
            assert not second.election.leadership.leading
            task.cancel()
            await second.leads()
            assert not first.election.leadership.leading, "the first one's time was over before the second one's began"
            lease = await fresh.get(LEASES, LEASE_NAME, NAMESPACE)
            assert lease["spec"]["leaseTransitions"] == 2


async def test_a_lease_that_was_released_is_taken_at_once(fresh: KubeClient) -> None:
    first, second = Candidate(fresh, "first"), Candidate(fresh, "second")
    async with running(first):
        await first.leads()
    await first.election.release()
    assert not first.election.leadership.leading
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
        assert not first.election.leadership.leading


async def test_each_acquisition_is_a_new_term(fresh: KubeClient) -> None:
    first, second = Candidate(fresh, "first"), Candidate(fresh, "second")
    leadership = first.election.leadership
    assert (leadership.term, leadership.leading, leadership.holds(0)) == (0, False, False)
    async with running(first):
        await first.leads()
        assert (leadership.term, leadership.holds(1), leadership.holds(0)) == (1, True, False)
    await first.election.release()
    assert not leadership.holds(1)
    async with running(second):
        await second.leads()
    await second.election.release()
    async with running(first):
        await first.leads()
        assert (leadership.term, leadership.holds(1), leadership.holds(2)) == (2, False, True)


NONSENSE: dict[str, Json] = {
    "no spec": {},
    "nobody": {"holderIdentity": ""},
    "a holder and nothing else": {"holderIdentity": "dead"},
    "a holder for 68 years": {"holderIdentity": "dead", "leaseDurationSeconds": 2**31 - 1},
    "as many changes as there can be": {"holderIdentity": "dead", "leaseTransitions": 2**31 - 1},
    "a strategy of somebody's": {"holderIdentity": "dead", "strategy": "OldestEmulationVersion"},
}


@pytest.mark.parametrize("spec", NONSENSE.values(), ids=NONSENSE.keys())
async def test_a_lease_that_makes_no_sense_is_taken(fresh: KubeClient, spec: Json) -> None:
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": LEASE_NAME}, "spec": spec}
    await fresh.create(LEASES, lease if spec else {**lease, "spec": None}, NAMESPACE)
    first = Candidate(fresh, "first")
    async with running(first):
        await first.leads()
    found = (await fresh.get(LEASES, LEASE_NAME, NAMESPACE))["spec"]
    assert (found["holderIdentity"], found["leaseDurationSeconds"]) == ("first", 1)


class Store:
    """One Lease that holds whatever it is given: a real API server lets most nonsense not in."""

    def __init__(self, lease: Any) -> None:
        self.lease = lease
        self.errors: list[BaseException] = []
        self.replaced: list[Json] = []

    async def get(self, *_: Any) -> Any:
        if self.errors:
            raise self.errors.pop(0)
        return self.lease

    async def replace(self, _kind: Any, _name: str, body: Json, _namespace: str) -> Json:
        if self.errors:
            raise self.errors.pop(0)
        assert body["metadata"]["resourceVersion"] == self.lease["metadata"]["resourceVersion"], "it is fenced"
        self.replaced.append(body)
        self.lease = body
        return body


@pytest.mark.parametrize(
    "spec",
    [
        7,
        "x",
        [],
        {"holderIdentity": 7},
        {"holderIdentity": ["dead"], "renewTime": {}},
        {"holderIdentity": "dead", "renewTime": 3, "leaseDurationSeconds": "soon"},
        {"holderIdentity": "dead", "leaseDurationSeconds": -5, "leaseTransitions": "many", "acquireTime": "yesterday"},
        {"holderIdentity": "dead", "leaseDurationSeconds": None, "leaseTransitions": -1, "acquireTime": None},
    ],
)
async def test_nonsense_in_a_lease_is_replaced_under_a_fence(spec: Any) -> None:
    store = Store({**item(LEASE_NAME, 5), "spec": spec})
    first = Candidate(store, "first")
    async with running(first):
        await first.leads()
    written = store.replaced[0]["spec"]
    assert written.keys() == {"holderIdentity", "leaseDurationSeconds", "renewTime", "acquireTime", "leaseTransitions"}
    assert (written["holderIdentity"], written["leaseTransitions"]) == ("first", 1)


@pytest.mark.parametrize("lease", [{}, {"metadata": None}, {"metadata": {"name": LEASE_NAME}}])
async def test_what_is_no_lease_is_never_written_over(lease: Any) -> None:
    store = Store(lease)
    first = Candidate(store, "first")
    async with running(first) as (task,):
        await asyncio.wait({task}, timeout=0.5)
        assert not task.done()
    assert not store.replaced
    assert not first.election.leadership.leading


@pytest.mark.parametrize("error", [RuntimeError("odd"), KeyError("spec"), KubeError(422, "invalid"), OSError("away")])
async def test_no_exception_ends_the_election(error: Exception) -> None:
    store = Store({**item(LEASE_NAME, 5), "spec": {}})
    store.errors = [error, error, error]
    first = Candidate(store, "first")
    async with running(first) as (task,):
        await first.leads()
        store.errors = [error]
        renewals = len(store.replaced)

        async def renewed() -> bool | None:
            return True if len(store.replaced) > renewals else None

        await until(renewed, "it renews again")
        assert not task.done()


async def test_what_is_called_at_a_change_may_fail() -> None:
    def fails() -> None:
        raise RuntimeError("odd")

    first = Candidate(Store({**item(LEASE_NAME, 5), "spec": {}}), "first", started=fails, stopped=fails)
    async with running(first):
        await first.leads()
    await first.election.release()
    assert not first.election.leadership.leading


async def test_a_leader_that_was_suspended_for_longer_than_its_time_begins_a_new_term() -> None:
    """Nobody took the Lease meanwhile, but who decided before may not write after."""
    now = 0.0
    store = Store({**item(LEASE_NAME, 5), "spec": {}})
    first = Candidate(store, "first", monotonic=lambda: now)
    leadership = first.election.leadership
    async with running(first):
        await first.leads()
        assert leadership.holds(1)
        now = 100.0
        assert not leadership.holds(1)
        await first.leads()
        assert (leadership.term, leadership.holds(1)) == (2, False)
    assert len(first.spans) == 2


async def test_a_leader_that_finds_its_lease_let_go_begins_a_new_term() -> None:
    """Somebody else may have had it since the last renewal."""
    store = Store({**item(LEASE_NAME, 5), "spec": {}})
    first = Candidate(store, "first")
    async with running(first):
        await first.leads()
        store.lease = {**store.lease, "spec": {"holderIdentity": "", "leaseTransitions": 7}}

        async def again() -> bool | None:
            return True if first.election.leadership.term == 2 else None

        await until(again, "the second term")
    assert store.lease["spec"]["leaseTransitions"] == 8


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
