"""The pool's store, on a real S3 server, with credentials from a real Secret."""

import asyncio
import base64
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from dev.control_plane import NAMESPACE, Cluster
from tests.controller.world import until
from tests.s3 import S3Server, s3_server
from videojob.api.gpupool import Store
from videojob.kube.client import KubeClient
from videojob.runner.metrics import RunnerMetrics
from videojob.runner.pool_store import PoolStore
from videojob.store import StoreError

__all__ = ["s3_server"]

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def quick_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("videojob.runner.pool_store.CHECK_SECONDS", 0.1)


@pytest.fixture
def secret(cluster: Cluster) -> Callable[[Mapping[str, str], str], str]:
    def make(values: Mapping[str, str], name: str = "") -> str:
        name = name or f"store-{next(_numbers)}"
        data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
        metadata = {"name": name, "namespace": NAMESPACE}
        cluster.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data})
        return name

    return make


@asynccontextmanager
async def watching(
    kube: KubeClient, spec: Store, registry: CollectorRegistry | None = None
) -> AsyncIterator[tuple[PoolStore, Callable[[str], Awaitable[None]]]]:
    """The store, being checked, and a way to wait until its error holds some words (or is gone)."""
    changed = asyncio.Event()
    store = PoolStore(kube, NAMESPACE, spec, RunnerMetrics(registry or CollectorRegistry(), "p", "r"), changed.set)
    task = asyncio.create_task(store.run())

    async def until(words: str) -> None:
        async with asyncio.timeout(60):
            while (words not in store.error) if words else store.error:
                changed.clear()
                await changed.wait()

    try:
        yield store, until
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def spec_of(server: S3Server, secret_name: str | None) -> Store:
    return Store(
        url=f"s3://{server.bucket()}/videos", endpoint=server.endpoint, region="us-east-1", secret_name=secret_name
    )


async def test_credentials_come_from_the_secret(
    kube: KubeClient, s3_server: S3Server, secret: Callable[..., str]
) -> None:
    async with watching(kube, spec_of(s3_server, secret(s3_server.credentials))) as (store, until):
        await until("")

        await (await store.job("team", "0b5c")).commit_unit(index=0, attempt=1, checkpoint=b"latents", stage_seconds={})
        assert await (await store.job("team", "0b5c")).count() == 1


async def test_a_secret_that_is_missing_is_reported_until_it_exists(
    kube: KubeClient, s3_server: S3Server, secret: Callable[..., str]
) -> None:
    async with watching(kube, spec_of(s3_server, "later")) as (_, until):
        await until('secrets "later" not found')

        secret(s3_server.credentials, "later")
        await until("")


async def test_credentials_that_were_changed_are_read_again(
    kube: KubeClient, s3_server: S3Server, secret: Callable[..., str]
) -> None:
    name = secret(s3_server.user())
    async with watching(kube, spec_of(s3_server, name)) as (_, until):
        await until("access is denied")

        secret(s3_server.credentials, name)
        await until("")


async def test_a_changed_spec_is_used_and_what_runs_goes_on(
    kube: KubeClient, s3_server: S3Server, secret: Callable[..., str]
) -> None:
    spec = spec_of(s3_server, secret(s3_server.credentials))
    async with watching(kube, spec) as (store, until):
        await until("")
        running = await store.job("team", "0b5c")
        store.use(spec.model_copy(update={"secret_name": secret({"AWS_ACCESS_KEY_ID": "who\n"})}))
        await until("lacks the key AWS_SECRET_ACCESS_KEY")
        assert await running.count() == 0
        store.use(spec.model_copy(update={"secret_name": secret(s3_server.credentials)}))
        await until("")


async def test_a_store_that_fails_is_reported_until_it_works_again(kube: KubeClient, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    async with watching(kube, Store(url=folder.as_uri())) as (store, until):
        await until("")
        folder.rename(tmp_path / "away")
        folder.write_text("no folder")

        with pytest.raises(StoreError), store.watched():
            await (await store.job("team", "0b5c")).committed()
            await (await store.job("team", "0b5c")).commit_unit(
                index=0, attempt=1, checkpoint=b"latents", stage_seconds={}
            )
        assert store.error

        folder.unlink()
        (tmp_path / "away").rename(folder)
        await until("")


async def test_every_check_of_a_store_that_is_down_counts_as_an_error(kube: KubeClient, tmp_path: Path) -> None:
    folder, registry = tmp_path / "store", CollectorRegistry()
    folder.write_text("no folder")

    async def three() -> bool | None:
        labels = {"pool": "p", "replica": "r"}
        return (registry.get_sample_value("videojob_runner_store_errors_total", labels) or 0) >= 3 or None

    # No attempt asks for anything: a pool with such a store gets no jobs.
    async with watching(kube, Store(url=folder.as_uri()), registry):
        await until(three, "three checks have counted", 60)
