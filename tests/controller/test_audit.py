"""The audit: what a watch has missed is found, counted and made good; one kind or object does not stop the others."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from tests.controller.world import World, until
from tests.kube.server import item
from videojob.controller.audit import READS, Audit
from videojob.controller.parts import PartError
from videojob.kube.client import (
    GPU_POOLS,
    VIDEO_JOBS,
    VIDEO_MODELS,
    VIDEO_QUEUES,
    Json,
    KubeClient,
    KubeError,
    ResourceKind,
)

KINDS = (VIDEO_JOBS, VIDEO_QUEUES, VIDEO_MODELS, GPU_POOLS)


class Memory:
    """What is known: versions and names."""

    def __init__(self) -> None:
        self.objects: dict[ResourceKind, dict[str, tuple[int, str]]] = {kind: {} for kind in KINDS}
        self.unreadable: set[str] = set()

    def known(self, kind: ResourceKind) -> Mapping[str, int]:
        return {uid: version for uid, (version, _) in self.objects[kind].items()}

    def apply(self, kind: ResourceKind, body: Json) -> None:
        metadata = body["metadata"]
        if metadata["name"] in self.unreadable:
            raise ValueError("cannot be read")
        self.objects[kind][metadata["uid"]] = (int(metadata["resourceVersion"]), metadata["name"])

    def forget(self, kind: ResourceKind, uid: str) -> None:
        del self.objects[kind][uid]

    def ours(self, kind: ResourceKind, body: Json) -> bool:
        return bool(body.get("spec", {}).get("managedBy") != "others")

    def names(self, kind: ResourceKind) -> set[str]:
        return {name for _, name in self.objects[kind].values()}


class Collections:
    """A client that lists what it was given; a real server gives nothing malformed, and fails only as a whole."""

    def __init__(self, items: dict[ResourceKind, list[Any]]) -> None:
        self.items: dict[ResourceKind, list[Any]] = dict.fromkeys(KINDS) | items  # type: ignore[assignment]
        self.broken: dict[ResourceKind, BaseException] = {}
        self.reads = 0
        self.lists = 0

    async def list(self, kind: ResourceKind, namespace: str | None, **selectors: str) -> Json:
        if kind in self.broken:
            raise self.broken[kind]
        self.lists += 1
        items, start, size = self.items[kind] or [], int(selectors.get("continue", 0)), int(selectors["limit"])
        more = {"continue": str(start + size)} if len(items) > start + size else {}
        return {"metadata": {"resourceVersion": "9", **more}, "items": items[start : start + size]}

    async def get(self, kind: ResourceKind, name: str, namespace: str | None) -> Json:
        self.reads += 1
        for found in self.items[kind]:
            if isinstance(found, dict) and found.get("metadata", {}).get("name") == name:
                return dict(found)
        raise KubeError(404, "gone")


class Auditing:
    """An audit with short times."""

    def __init__(self, client: Any, memory: Memory, pause: float = 0.05, grace: float = 0.05) -> None:
        self.missed: dict[ResourceKind, int] = dict.fromkeys(KINDS, 0)
        self.failed: list[ResourceKind] = []
        self.audit = Audit(
            cast("KubeClient", client),
            memory,
            KINDS,
            namespace=None,
            pause_seconds=pause,
            grace_seconds=grace,
            missed=self._count,
            failed=self.failed.append,
        )

    def _count(self, kind: ResourceKind, count: int) -> None:
        self.missed[kind] += count

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.audit.run())
        try:
            yield
            assert not task.done(), "nothing ends it"
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def holds(condition: Any, what: str) -> None:
    async def look() -> bool | None:
        return True if condition() else None

    await until(look, what, 5)


async def test_what_a_watch_has_missed_is_made_good_and_counted(world: World) -> None:
    memory = Memory()
    auditing = Auditing(world.client, memory)
    await world.job("first")
    await auditing.audit.load()
    assert "first" in memory.names(VIDEO_JOBS)
    async with auditing.running():
        await world.job("second")
        await world.client.delete(VIDEO_JOBS, "first", world.namespace)
        await holds(lambda: memory.names(VIDEO_JOBS) & {"first", "second"} == {"second"}, "both changes are made good")
        await holds(lambda: auditing.missed[VIDEO_JOBS] >= 2, "both are counted")


async def test_a_cluster_that_has_gone_back_in_time_needs_another_process() -> None:
    """As after etcd was restored from a backup: all that comes from now on would count as older than what is known."""
    memory = Memory()
    memory.apply(VIDEO_JOBS, item("clip", 500))
    auditing = Auditing(Collections({VIDEO_JOBS: [item("clip", 3)]}), memory)
    async with asyncio.timeout(5):
        with pytest.raises(PartError, match=r"clip had resourceVersion 500, and has 3: .* restored from a backup"):
            await auditing.audit.run()
    assert auditing.failed == []


@pytest.mark.parametrize("error", [KubeError(403, "no"), KubeError(0, "away"), RuntimeError("odd"), KeyError("uid")])
async def test_one_kind_that_cannot_be_compared_does_not_stop_the_others(error: Exception) -> None:
    memory = Memory()
    client = Collections({GPU_POOLS: [item("pool")]})
    client.broken[VIDEO_JOBS] = error
    auditing = Auditing(client, memory)
    async with auditing.running():
        await holds(lambda: memory.names(GPU_POOLS) == {"pool"}, "the pool is known")
        await holds(lambda: VIDEO_JOBS in auditing.failed, "the failure is counted")
        del client.broken[VIDEO_JOBS]
        client.items[VIDEO_JOBS] = [item("job")]
        await holds(lambda: memory.names(VIDEO_JOBS) == {"job"}, "the job is known")


async def test_one_object_that_cannot_be_read_does_not_stop_the_others() -> None:
    memory = Memory()
    memory.unreadable = {"bad"}
    client = Collections({VIDEO_JOBS: [item("bad", 3), item("good", 4), item("odd", spec={"managedBy": "others"})]})
    auditing = Auditing(client, memory)
    await auditing.audit.load()
    assert memory.names(VIDEO_JOBS) == {"good"}
    client.items[VIDEO_JOBS].append(item("later", 5))
    async with auditing.running():
        await holds(lambda: memory.names(VIDEO_JOBS) == {"good", "later"}, "the others are known")
    assert auditing.missed[VIDEO_JOBS] == 1, "what is not known even now was not missed by the watch"


async def test_nothing_is_gone_because_an_item_cannot_be_read() -> None:
    memory = Memory()
    client = Collections({VIDEO_JOBS: [item("a"), item("b")]})
    auditing = Auditing(client, memory)
    await auditing.audit.load()
    odd = {"metadata": {"name": "c", "uid": "uid-c", "resourceVersion": "x7"}}
    client.items[VIDEO_JOBS] = [item("a"), None, odd, item("d", 7)]
    async with auditing.running():
        await holds(lambda: memory.names(VIDEO_JOBS) == {"a", "b", "d"}, "the new one is known, the old one still")
        client.items[VIDEO_JOBS] = [item("a"), item("d", 7)]
        await holds(lambda: memory.names(VIDEO_JOBS) == {"a", "d"}, "what is gone is forgotten")


async def test_what_came_meanwhile_was_not_missed() -> None:
    memory = Memory()
    client = Collections({VIDEO_JOBS: [item("a", 2)]})
    auditing = Auditing(client, memory, grace=0.3)
    async with auditing.running():
        await holds(lambda: client.lists, "the listing was made")
        memory.apply(VIDEO_JOBS, item("a", 2))
        await holds(lambda: client.lists > 2 * len(KINDS), "comparisons have ended")
    assert auditing.missed[VIDEO_JOBS] == 0
    assert client.reads == 0


async def test_a_kind_is_compared_soon_where_that_is_asked_for_and_the_others_in_time_all_the_same() -> None:
    memory = Memory()
    client = Collections({VIDEO_JOBS: [item("job")], VIDEO_MODELS: [item("model")]})
    auditing = Auditing(client, memory, pause=1.0)
    async with auditing.running():
        auditing.audit.soon(VIDEO_JOBS)
        await holds(lambda: memory.names(VIDEO_JOBS) == {"job"}, "the job is known")
        assert memory.names(VIDEO_MODELS) == set()

        def asked_again() -> bool:
            auditing.audit.soon(VIDEO_JOBS)
            return memory.names(VIDEO_MODELS) == {"model"}

        await holds(asked_again, "the model is known, however often jobs are asked for")


async def test_the_reads_of_a_comparison_are_bounded() -> None:
    memory = Memory()
    client = Collections({VIDEO_JOBS: [item(f"job-{index}") for index in range(READS + 700)]})
    auditing = Auditing(client, memory, pause=30, grace=0)
    async with auditing.running():
        auditing.audit.soon(VIDEO_JOBS)
        await holds(lambda: auditing.missed[VIDEO_JOBS] > 0, "a comparison was made")
        assert client.reads == auditing.missed[VIDEO_JOBS] == READS
        auditing.audit.soon(VIDEO_JOBS)
        await holds(lambda: len(memory.names(VIDEO_JOBS)) == READS + 700, "the next one reads on")
