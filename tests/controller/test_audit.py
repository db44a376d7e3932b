"""The audit against a real API server: a cache without a watch is a watch that brings nothing."""

import asyncio

from prometheus_client import CollectorRegistry

from tests.controller.world import World, until
from videojob.controller.audit import Audit
from videojob.controller.cache import Cache
from videojob.controller.metrics import OperatorMetrics
from videojob.kube.client import VIDEO_JOBS


async def test_what_a_watch_has_missed_is_found_told_and_made_up_for(world: World) -> None:
    cache = Cache(lambda: 0, lambda: None)
    metrics = OperatorMetrics(CollectorRegistry())
    audit = Audit(world.client, cache, metrics, namespace=None, pause_seconds=0.05, grace_seconds=0.05)
    await world.job("first")
    await audit.load()

    def names() -> set[str]:
        return {job.name for job in cache.snapshot().jobs if job.namespace == world.namespace}

    assert names() == {"first"}
    running = asyncio.create_task(audit.run())
    try:
        await world.job("second")
        await world.client.delete(VIDEO_JOBS, "first", world.namespace)

        async def found() -> bool | None:
            return True if names() == {"second"} else None

        await until(found, "the audit finds both changes")
        missed = metrics.registry.get_sample_value(
            "videojob_operator_missed_changes_total", {"kind": VIDEO_JOBS.plural}
        )
        assert missed is not None
        assert missed >= 2

        async def sound() -> bool | None:
            return True if audit.sound else None

        await until(sound, "the next audit finds nothing")
    finally:
        running.cancel()
