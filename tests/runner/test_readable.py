"""An object that cannot be read is not absent."""

from typing import Any

from prometheus_client import CollectorRegistry

from videojob.api.gpupool import GPUPool
from videojob.kube.client import GPU_POOLS, Change, Listing
from videojob.runner.metrics import RunnerMetrics
from videojob.runner.readable import Readable


def pool(name: str, version: str = "1", uid: str = "u", **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "uid": uid, "resourceVersion": version},
        "spec": {
            "accelerator": "cpu",
            "models": ["tiny"],
            "store": {"url": "file:///s"},
            "endpoints": [{"name": "r", "url": "127.0.0.1:8001"}],
            **spec,
        },
    }


def unreadable(name: str, version: str = "2", uid: str = "u") -> dict[str, Any]:
    return pool(name, version, uid, endpoints="everywhere")


class Pools:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.read = Readable(GPU_POOLS, GPUPool, RunnerMetrics(self.registry, "p", "r"))

    def see(self, *events: Listing | Change) -> dict[str, str]:
        """Names and versions of what is known after that."""
        for event in events:
            self.read.see(event)
        return {name: each.metadata.resource_version for name, each in self.read.objects.items()}

    def counted(self) -> float | None:
        labels = {"pool": "p", "replica": "r", "kind": "gpupools"}
        return self.registry.get_sample_value("videojob_runner_unreadable_objects_total", labels)


def test_what_was_last_read_stays_in_force() -> None:
    pools = Pools()
    assert pools.see(Listing([pool("a"), pool("b")])) == {"a": "1", "b": "1"}
    assert pools.see(Change("MODIFIED", unreadable("a")), Change("MODIFIED", pool("b", "2"))) == {"a": "1", "b": "2"}
    assert pools.see(Listing([unreadable("a"), pool("b", "2")])) == {"a": "1", "b": "2"}
    assert pools.counted() == 1, "one version counts once"
    assert pools.see(Change("MODIFIED", pool("a", "3"))) == {"a": "3", "b": "2"}
    assert pools.read.unreadable == {}


def test_what_was_never_read_is_known_to_be_there() -> None:
    pools = Pools()
    assert pools.see(Listing([unreadable("a"), pool("b")])) == {"b": "1"}
    assert pools.read.unreadable == {"a": "2"}


def test_what_is_gone_is_gone_readable_or_not() -> None:
    pools = Pools()
    pools.see(Listing([pool("a"), pool("b")]), Change("MODIFIED", unreadable("a")))
    assert pools.see(Listing([pool("b")])) == {"b": "1"}
    assert pools.see(Change("DELETED", unreadable("b"))) == {}


def test_another_object_of_that_name_is_not_taken_for_the_one_before() -> None:
    pools = Pools()
    pools.see(Listing([pool("a")]))
    assert pools.see(Listing([unreadable("a", "9", uid="another")])) == {}
