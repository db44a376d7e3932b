"""Files of deleted jobs, with the real API server and a store that does as it is told."""

from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge

from dev.control_plane import NAMESPACE
from tests.controller.world import World
from tests.planner.builders import job
from videojob.controller.cache import Cache
from videojob.controller.files import ORPHANS, Files, StoreFailure
from videojob.kube.client import CONFIG_MAPS, GPU_POOLS, SECRETS, KubeError


class Disk:
    """Fails while it is told to."""

    def __init__(self) -> None:
        self.failing = False
        self.cleaned: list[tuple[str, Mapping[str, Any], str, str, bool]] = []

    async def __call__(self, url: str, options: Mapping[str, Any], namespace: str, uid: str, keep_output: bool) -> None:
        if self.failing:
            raise StoreFailure("no space on device")
        self.cleaned.append((url, options, namespace, uid, keep_output))


class Bench:
    def __init__(self, world: World, orphan_limit: int = 10) -> None:
        self.time = 0.0
        self.disk = Disk()
        self.cache = Cache(lambda: 0, lambda: None)
        self.files = Files(
            world.client,
            self.cache,
            NAMESPACE,
            clean=self.disk,
            monotonic=lambda: self.time,
            patience_seconds=300,
            try_seconds=5,
            orphan_limit=orphan_limit,
            retry_seconds=1,
            orphans=Gauge("orphans", "test", registry=CollectorRegistry()),
        )


def stored(name: str, root: str = "file:///store") -> Any:
    return job(name, pool="gone", store_uri=f"{root}/team/uid-{name}")


async def listed(world: World) -> set[str]:
    try:
        found = await world.client.get(CONFIG_MAPS, ORPHANS, NAMESPACE)
    except KubeError as error:
        assert error.not_found
        return set()
    return set(found.get("data") or {})


async def test_a_job_that_was_never_assigned_has_no_files(world: World) -> None:
    bench = Bench(world)
    assert await bench.files.remove(job("never"), keep_output=False) is None
    assert bench.disk.cleaned == []


async def test_a_store_is_given_its_time_and_then_given_up(world: World) -> None:
    bench = Bench(world)
    bench.disk.failing = True
    name = f"slow-{world.namespace}"
    for moment in (0, 100, 299):
        bench.time = moment
        with pytest.raises(StoreFailure):
            await bench.files.remove(stored(name), keep_output=False)
    bench.time = 300
    sentence = await bench.files.remove(stored(name), keep_output=False)
    assert sentence is not None
    assert f"file:///store/team/uid-{name}" in sentence
    assert f"uid-{name}" in await listed(world)


async def test_a_store_that_answers_again_gets_its_time_anew(world: World) -> None:
    bench = Bench(world)
    bench.disk.failing = True
    with pytest.raises(StoreFailure):
        await bench.files.remove(stored("a"), keep_output=False)
    bench.disk.failing = False
    assert await bench.files.remove(stored("b"), keep_output=False) is None
    bench.disk.failing, bench.time = True, 400
    with pytest.raises(StoreFailure):
        await bench.files.remove(stored("a"), keep_output=False)


async def test_a_full_list_of_orphans_is_told(world: World) -> None:
    bench = Bench(world, orphan_limit=0)
    name = f"full-{world.namespace}"
    sentence = await bench.files.remove(stored(name, "s3://bucket"), keep_output=False)
    assert sentence is not None
    assert "remove them by hand" in sentence
    assert f"uid-{name}" not in await listed(world)


async def test_a_store_is_reached_with_its_pools_credentials(world: World, tmp_path: Path) -> None:
    bench = Bench(world)
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": world.namespace},
        "data": {"AWS_ACCESS_KEY_ID": b64encode(b"me").decode()},
    }
    await world.client.create(SECRETS, secret, NAMESPACE)
    store = {"url": "s3://bucket/videos", "endpoint": "http://127.0.0.1:1", "secretName": world.namespace}
    await world.pools(store=store)
    bench.cache.apply(GPU_POOLS, await world.client.get(GPU_POOLS, world.pool))
    found = job("a", pool=world.pool, store_uri="s3://bucket/videos/team/uid-a")
    assert await bench.files.remove(found, keep_output=True) is None
    options = {"endpoint": "http://127.0.0.1:1", "region": None, "credentials": {"AWS_ACCESS_KEY_ID": "me"}}
    assert bench.disk.cleaned == [("s3://bucket/videos", options, "team", "uid-a", True)]
