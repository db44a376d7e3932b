"""Files of jobs that are deleted, closed or moved; with the real API server where its objects matter."""

import json
import logging
from base64 import b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry, Gauge

from dev.control_plane import NAMESPACE
from tests.controller.world import World
from videojob.api.gpupool import GPUPool
from videojob.controller.files import Files
from videojob.controller.orphans import ORPHANS, OrphanMetrics, Orphans
from videojob.controller.stores import FINISHED, PoolGone, Prefix, StoreFailure, Stores
from videojob.kube.client import CONFIG_MAPS, GPU_POOLS, SECRETS, Json, KubeClient, KubeError
from videojob.store import JobStore, open_store

START = datetime(2026, 1, 1, tzinfo=UTC)


class FailingStores:
    """Stores that fail on demand, which real ones do not: for chosen jobs, or for whole stores."""

    def __init__(self) -> None:
        self.failing: set[str] = set()
        self.gone: set[str] = set()
        self.calls: list[tuple[Any, ...]] = []

    def _meet(self, *call: Any) -> None:
        self.calls.append(call)
        prefix = call[1]
        if prefix.pool in self.gone:
            raise PoolGone(f"GPUPool {prefix.pool} does not exist any more")
        if {prefix.uid, prefix.store_url} & self.failing:
            raise StoreFailure("no space on device")

    async def purge(self, prefix: Prefix, keep_output: bool, keep_closed: bool) -> None:
        self._meet("purge", prefix, keep_output, keep_closed)

    async def close(self, prefix: Prefix, attempt: int) -> None:
        self._meet("close", prefix, attempt)

    async def sweep(self, prefix: Prefix, attempt: int, in_use: bool) -> None:
        self._meet("sweep", prefix, attempt, in_use)

    async def committed(self, prefix: Prefix) -> int:
        self._meet("committed", prefix)
        return 0


class OneConfigMap:
    """An API server that has room for the list of orphans."""

    def __init__(self, data: Mapping[str, str] | None = None) -> None:
        self.data = None if data is None else dict(data)

    async def get(self, *_: object) -> Json:
        if self.data is None:
            raise KubeError(404, "not found")
        return {"data": dict(self.data)}

    async def merge_patch(self, kind: object, name: str, body: Json, namespace: str) -> None:
        if self.data is None:
            raise KubeError(404, "not found")
        merged = {**self.data, **body["data"]}
        self.data = {key: value for key, value in merged.items() if value is not None}

    async def create(self, kind: object, body: Json, namespace: str) -> None:
        self.data = dict(body["data"])


class Bench:
    def __init__(self, client: Any = None, limit: int = 10) -> None:
        self.time = 0.0
        self.kube: Any = client or OneConfigMap()
        self.stores = FailingStores()
        registry = CollectorRegistry()
        self.metrics = OrphanMetrics(*(Gauge(name, "test", registry=registry) for name in ("r", "s", "u")))
        self.files = Files(
            self.stores,
            Orphans(cast("KubeClient", self.kube), NAMESPACE, limit, self.metrics),
            monotonic=lambda: self.time,
            now=lambda: START + timedelta(seconds=self.time),
            patience_seconds=300,
            retry_seconds=1,
        )

    async def work_off(self, in_use: Callable[[str, str, str], bool] = lambda *_: False) -> None:
        await self.files._work_off(lambda: True, in_use)

    def gauges(self) -> tuple[float, ...]:
        values = (self.metrics.removals, self.metrics.sweeps, self.metrics.unreadable)
        return tuple(next(iter(gauge.collect())).samples[0].value for gauge in values)


def prefix(uid: str, store_url: str = "s3://videos/p") -> Prefix:
    return Prefix("team", uid, "p", store_url)


@pytest.mark.parametrize("root", ["file:///store", "s3://bucket", "s3://bucket/a/b"])
def test_a_prefix_comes_from_the_jobs_uri(root: str) -> None:
    found = Prefix.of("team", "u", "p", f"{root}/team/u")
    assert found == Prefix("team", "u", "p", root)
    assert found.uri == f"{root}/team/u"


async def test_one_locked_prefix_among_healthy_ones_is_given_up() -> None:
    bench = Bench()
    bench.stores.failing = {"locked"}
    for minute in range(5):
        bench.time = 60.0 * minute
        with pytest.raises(StoreFailure):
            await bench.files.remove(prefix("locked"), keep_output=False)
        assert await bench.files.remove(prefix(f"other-{minute}"), keep_output=False) is None
    bench.time = 300
    sentence = await bench.files.remove(prefix("locked"), keep_output=False)
    assert sentence is not None
    assert "s3://videos/p/team/locked" in sentence
    assert "no space on device" in sentence
    assert bench.gauges() == (1, 0, 0)


async def test_no_deletion_is_given_up_untried() -> None:
    bench = Bench()
    bench.stores.failing = {"s3://videos/p"}
    for moment in (0, 200):
        bench.time = moment
        with pytest.raises(StoreFailure):
            await bench.files.remove(prefix("old"), keep_output=False)
    bench.time = 86400
    with pytest.raises(StoreFailure):
        await bench.files.remove(prefix("new"), keep_output=False)
    with pytest.raises(StoreFailure):
        await bench.files.remove(prefix("old"), keep_output=False)
    bench.stores.failing = set()
    assert await bench.files.remove(prefix("new"), keep_output=False) is None
    assert await bench.files.remove(prefix("old"), keep_output=False) is None
    assert bench.gauges() == (0, 0, 0)


async def test_a_store_that_nobody_can_reach_is_given_up_at_once() -> None:
    bench = Bench()
    bench.stores.gone = {"p"}
    sentence = await bench.files.remove(prefix("u"), keep_output=False)
    assert sentence is not None
    assert "GPUPool p does not exist any more" in sentence
    with pytest.raises(StoreFailure):
        await bench.files.committed(prefix("u"))


async def test_a_full_list_is_reported_and_keeps_room_for_sweeps() -> None:
    bench = Bench(limit=1)
    bench.stores.gone = {"p"}
    await bench.files.remove(prefix("a"), keep_output=False)
    sentence = await bench.files.remove(prefix("b"), keep_output=False)
    assert sentence is not None
    assert "remove them by hand" in sentence
    await bench.files.sweep_later(prefix("a"), 1, START)
    await bench.files.sweep_later(prefix("a"), 1, START)
    with pytest.raises(StoreFailure, match="is full"):
        await bench.files.sweep_later(prefix("a"), 2, START)


GOOD = json.dumps({"namespace": "team", "uid": "good", "pool": "p", "storeUrl": "s3://videos/p"})


@pytest.mark.parametrize(
    "text",
    ["", "no json", "[]", "{}", GOOD[:-1] + ', "region": "eu"}', GOOD[:-1] + ', "notBefore": "soon"}', GOOD[:-1]],
    ids=["empty", "text", "list", "few-keys", "unknown-key", "no-time", "cut"],
)
async def test_an_entry_that_cannot_be_read_stops_no_other(text: str, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(OneConfigMap({"a-bad": text, "good": GOOD}))
    with caplog.at_level(logging.ERROR):
        await bench.work_off()
        await bench.work_off()
    assert bench.stores.calls == [("purge", prefix("good"), False, False)]
    assert bench.kube.data == {"a-bad": text}, "what cannot be read is left as it is"
    assert bench.gauges() == (0, 0, 1)
    (record,) = caplog.records
    assert "a-bad" in record.getMessage()


async def test_a_prefix_that_fails_does_not_hold_up_its_store() -> None:
    bench = Bench(
        OneConfigMap({uid: GOOD.replace("good", uid) for uid in ("a-locked", "b", "c")}),
    )
    bench.stores.failing = {"a-locked"}
    for turn in range(2):
        bench.time = float(turn)
        await bench.work_off()
    assert set(bench.kube.data) == {"a-locked"}


async def test_an_unexpected_error_stops_no_other_entry() -> None:
    bench = Bench(OneConfigMap({uid: GOOD.replace("good", uid) for uid in ("a", "b")}))
    real = bench.stores.purge

    async def purge(prefix: Prefix, keep_output: bool, keep_closed: bool) -> None:
        if prefix.uid == "a":
            raise RuntimeError("nobody knows this one")
        await real(prefix, keep_output, keep_closed)

    bench.stores.purge = purge  # type: ignore[method-assign]
    await bench.work_off()
    assert set(bench.kube.data) == {"a"}


async def test_a_sweep_waits_for_its_time_and_is_made_again_until_the_job_is_known_to_be_gone() -> None:
    """A watch that stands still shows a job that is gone: what closes it must not be left for ever."""
    bench = Bench()
    asked: list[tuple[str, str, str]] = []
    known = True

    def used(*where: str) -> bool:
        asked.append((where[0], where[1], where[2]))
        return known

    await bench.files.sweep_later(prefix("u"), 3, START + timedelta(seconds=1800))
    assert bench.gauges() == (0, 1, 0)
    bench.time = 1799
    await bench.work_off(used)
    assert bench.stores.calls == []
    bench.time = 1800
    await bench.work_off(used)
    assert bench.stores.calls == [("sweep", prefix("u"), 3, True)]
    assert asked == [("team", "u", "s3://videos/p")]
    assert bench.gauges() == (0, 1, 0)
    known = False
    await bench.work_off(used)
    assert bench.stores.calls[1:] == [("sweep", prefix("u"), 3, False)]
    assert bench.kube.data == {}


async def committed_by(job: JobStore, attempt: int) -> None:
    await job.commit_unit(index=0, attempt=attempt, checkpoint=b"l", stage_seconds={})


async def test_the_files_of_a_real_store(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store"
    stores = Stores(None, lambda _: None, NAMESPACE, try_seconds=10)  # type: ignore[arg-type]
    found = prefix("u", url)

    def job() -> JobStore:
        return JobStore(open_store(url), "team", "u")

    assert await stores.committed(found) == 0
    await committed_by(job(), 1)
    assert await stores.committed(found) == 1
    await stores.close(found, 1)
    assert await stores.committed(found) == 0
    await stores.purge(found, keep_output=False, keep_closed=True)
    assert await job().closed() == 1
    await committed_by(job(), 2)
    (tmp_path / "video.mp4").write_bytes(b"video")
    await job().commit_output(attempt=2, path=tmp_path / "video.mp4", frames=1, duration_seconds=1.0)
    await stores.sweep(found, 1, in_use=True)
    assert await stores.committed(found) == FINISHED
    await stores.sweep(found, 1, in_use=False)
    assert await job().output() is not None
    await stores.purge(found, keep_output=False, keep_closed=False)
    assert not list((tmp_path / "store").iterdir())
    (tmp_path / "store").rmdir()
    (tmp_path / "store").write_text("no folder")
    with pytest.raises(StoreFailure):
        await stores.committed(found)


async def test_a_store_is_reached_with_its_pools_secret(world: World) -> None:
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": world.namespace},
        "data": {
            "AWS_ACCESS_KEY_ID": b64encode(b"me\n").decode(),
            "AWS_SECRET_ACCESS_KEY": b64encode("schlüssel".encode()).decode(),
        },
    }
    await world.client.create(SECRETS, secret, NAMESPACE)
    await world.pools(store={"url": "s3://b/videos", "endpoint": "http://127.0.0.1:1", "secretName": world.namespace})
    pool = GPUPool.model_validate(await world.client.get(GPU_POOLS, world.pool))
    stores = Stores(world.client, {world.pool: pool}.get, NAMESPACE, try_seconds=30)
    with pytest.raises(StoreFailure, match=f"AWS_SECRET_ACCESS_KEY of Secret {world.namespace}"):
        await stores.committed(Prefix("team", "u", world.pool, "s3://b/videos"))


async def test_the_list_is_a_real_config_map(world: World) -> None:
    bench = Bench(world.client)
    uid = f"uid-{world.namespace}"
    bench.stores.gone = {"p"}
    await bench.files.remove(prefix(uid), keep_output=True)
    found = await world.client.get(CONFIG_MAPS, ORPHANS, NAMESPACE)
    (text,) = [text for key, text in found["data"].items() if key.startswith(uid)]
    assert json.loads(text)["keepOutput"] is True
