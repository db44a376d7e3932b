"""Watches of a real API server: large objects, and rights that are taken away and given back."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dev.control_plane import NAMESPACE, Cluster
from tests.controller.world import until
from tests.kube.server import client_of
from videojob.kube.client import CONFIG_MAPS, Change, Json, KubeClient, KubeError, Listing, Watch, WatchTiming

TIMING = WatchTiming(pause=0.05, refused_pause=0.05, refused_limit=0.2, server_limit=1)


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[KubeClient]:
    async with client_of(cluster.kubeconfig) as found:
        yield found


class Follower:
    """What a watch has shown: the objects that there are, and how large their data is."""

    def __init__(self, watch: Watch) -> None:
        self.sizes: dict[str, int] = {}
        self._task = asyncio.create_task(self._follow(watch))

    async def _follow(self, watch: Watch) -> None:
        async for seen in watch:
            if isinstance(seen, Listing):
                self.sizes = {item["metadata"]["name"]: self._size(item) for item in seen.items}
            elif seen.type == "DELETED":
                self.sizes.pop(seen.object["metadata"]["name"])
            else:
                assert isinstance(seen, Change)
                self.sizes[seen.object["metadata"]["name"]] = self._size(seen.object)

    @staticmethod
    def _size(item: Json) -> int:
        return sum(map(len, item.get("data", {}).values()))

    async def shows(self, **sizes: int) -> None:
        """Wait until it shows just these."""

        async def look() -> bool | None:
            assert not self._task.done(), self._task.result()
            return True if self.sizes == sizes else None

        await until(look, f"it shows {sizes}, not {self.sizes}")

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def config_map(name: str, size: int) -> Json:
    return {"metadata": {"name": name}, "data": {"text": "x" * size}}


async def test_objects_as_large_as_they_can_be_are_listed_and_watched(client: KubeClient, namespace: str) -> None:
    size = 2**20 - 4  # A ConfigMap takes 1 MiB of keys and values.
    await client.create(CONFIG_MAPS, config_map("before", size), namespace)
    watch = client.watch(CONFIG_MAPS, namespace)
    follower = Follower(watch)
    try:
        await follower.shows(before=size)
        await client.create(CONFIG_MAPS, config_map("after", size), namespace)
        await follower.shows(before=size, after=size)
        await client.delete(CONFIG_MAPS, "before", namespace)
        await client.merge_patch(CONFIG_MAPS, "after", {"data": {"text": "x"}}, namespace)
        await follower.shows(after=1)
        assert watch.trouble is None
    finally:
        await follower.stop()


async def test_rights_that_are_away_for_a_while_end_no_watch(
    cluster: Cluster, client: KubeClient, namespace: str, tmp_path: Path
) -> None:
    about = {"metadata": {"name": namespace, "namespace": namespace}, "apiVersion": "rbac.authorization.k8s.io/v1"}
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list", "watch"]}]
    account = {"kind": "ServiceAccount", "name": namespace, "namespace": NAMESPACE}
    binding: dict[str, Any] = {
        **about,
        "kind": "RoleBinding",
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": namespace},
        "subjects": [account],
    }
    metadata = {"name": namespace, "namespace": NAMESPACE}
    cluster.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {**about, "kind": "Role", "rules": rules},
        binding,
    )
    failures: list[KubeError] = []
    async with client_of(cluster.service_account(namespace), timing=TIMING) as theirs:

        async def allowed() -> bool | None:
            try:
                await theirs.list(CONFIG_MAPS, namespace)
            except KubeError as error:
                assert error.code == 403
                return None
            return True

        await until(allowed, "the right has come into force")
        watch = theirs.watch(CONFIG_MAPS, namespace, must_start=True, failed=failures.append)
        follower = Follower(watch)
        try:
            await client.create(CONFIG_MAPS, config_map("a", 1), namespace)
            await follower.shows(a=1)
            cluster.kubectl("delete", "rolebinding", namespace, "--namespace", namespace)

            async def refused() -> bool | None:
                return True if any(error.code == 403 for error in failures) else None

            await until(refused, "the watch is refused")
            assert "forbidden" in (watch.trouble or "")
            await client.delete(CONFIG_MAPS, "a", namespace)
            await client.create(CONFIG_MAPS, config_map("b", 2), namespace)
            cluster.apply(binding)
            await follower.shows(b=2)
            assert watch.trouble is None
        finally:
            await follower.stop()
