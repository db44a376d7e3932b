"""The operator as a process with its own account, against a real API server and a stub runner."""

import asyncio
import json

import pytest

from dev.control_plane import NAMESPACE
from tests.controller.stub_runner import fail, finish, hold
from tests.controller.world import OperatorProcess, World, conditions, until
from videojob.api import FINALIZER
from videojob.api.conditions import ConditionType, find
from videojob.api.gpupool import GPUPool
from videojob.api.patch import attempt_fence
from videojob.api.replica import DRAIN_ANNOTATION, lease_name
from videojob.api.videoqueue import VideoQueue
from videojob.kube.client import CONFIG_MAPS, EVENTS, GPU_POOLS, LEASES, VIDEO_JOBS, VIDEO_QUEUES, Change, KubeError
from videojob.store import JobStore, open_store


async def test_a_job_that_starts_at_once_costs_two_writes(world: World, operator: OperatorProcess) -> None:
    await world.everything()
    await world.ready(1)
    writes: list[str] = []
    begun = asyncio.Event()

    async def watch() -> None:
        async for seen in world.client.watch(VIDEO_JOBS, world.namespace):
            begun.set()
            if isinstance(seen, Change):
                writes.append(f"{seen.type} {seen.object['status']['phase']}")

    watching = asyncio.create_task(watch())
    await begun.wait()
    await world.job()
    job = await world.phase("Succeeded")

    async def settled() -> bool | None:
        return True if writes and writes[-1] == "MODIFIED Succeeded" else None

    await until(settled, "the watch has seen the end")
    watching.cancel()
    assert writes[1:] == ["MODIFIED Pending", "MODIFIED Assigned", "MODIFIED Succeeded"], "the last one is the runner's"
    assert not (await world.client.list(EVENTS, world.namespace))["items"]
    assert job.metadata.finalizers == (FINALIZER,)
    assert job.status.attempts == 1
    assert job.status.resolved is not None
    assert job.status.resolved.frames == 16
    assert job.status.store_uri == f"{world.store.as_uri()}/{world.namespace}/{job.metadata.uid}"
    annotations = job.metadata.annotations
    assert not [key for key in annotations if "kopf" in key]


async def test_a_seed_that_was_not_given_is_drawn_and_kept(world: World, operator: OperatorProcess) -> None:
    await world.everything()
    await world.job("drawn")
    await world.job("given", seed=7)
    await world.job("drawn-too")
    seeds = []
    for name in ("drawn", "given", "drawn-too"):
        resolved = (await world.phase("Succeeded", name)).status.resolved
        assert resolved is not None
        seeds.append(resolved.seed)
    assert seeds[1] == 7
    assert seeds[0] != seeds[2]


async def test_a_job_reports_what_is_missing_and_starts_when_it_exists(world: World, operator: OperatorProcess) -> None:
    await world.job()
    job = await world.waits("QueueNotFound")
    condition = find(job.status.conditions, ConditionType.ASSIGNED)
    assert condition is not None
    assert condition.message == f"There is no VideoQueue default in namespace {world.namespace}: create it."
    assert job.metadata.finalizers == ()
    await world.queue()
    await world.waits("ModelNotFound")
    await world.models()
    await world.waits("PoolNotFound")
    await world.pools()
    await world.waits("PoolNotReady")
    await world.runner()
    await world.phase("Succeeded")
    await world.event("QueueNotFound")


async def test_a_cancelled_job_frees_its_replica(world: World, operator: OperatorProcess) -> None:
    await world.everything(behave=hold, slots=1)
    await world.job("first")
    await world.phase("Running", "first")
    await world.job("second")
    await world.change("first", cancel=True)
    job = await world.phase("Cancelled", "first")
    assert conditions(job)["Cancelled"] == ("True", "Cancelled")
    assert job.status.assignment is None
    await world.phase("Running", "second")


async def test_a_job_that_was_never_assigned_is_cancelled(world: World, operator: OperatorProcess) -> None:
    await world.job()
    await world.change(cancel=True)
    await world.phase("Cancelled")
    await world.event("Cancelled")


async def test_suspend_and_resume(world: World, operator: OperatorProcess) -> None:
    await world.everything(behave=hold)
    await world.job()
    running = await world.phase("Running")
    await world.change(suspend=True)
    suspended = await world.phase("Suspended")
    assert suspended.status.start_time is None
    assert suspended.status.pool == world.pool
    assert suspended.status.resolved == running.status.resolved
    await world.change(suspend=False)
    again = await world.phase("Running")
    assert again.status.attempts == 2
    assert again.status.resolved == running.status.resolved
    assert conditions(again)["Suspended"] == ("False", "Resumed")


async def test_a_job_that_is_born_suspended_waits_until_it_is_wanted(world: World, operator: OperatorProcess) -> None:
    await world.everything()
    await world.job(suspend=True)
    await world.phase("Suspended")
    await world.change(suspend=False)
    await world.phase("Succeeded")


async def test_a_running_job_that_is_deleted_leaves_nothing(world: World, operator: OperatorProcess) -> None:
    await world.everything(behave=hold)
    await world.job()
    job = await world.phase("Running")
    files = world.store / world.namespace / job.metadata.uid
    await put_video(world, job.metadata.uid)
    assert list(files.rglob("*.mp4"))
    await world.client.delete(VIDEO_JOBS, "job", world.namespace)
    await world.gone()
    assert not [path for path in files.rglob("*") if path.is_file()]


@pytest.mark.parametrize("policy", ["Retain", "Delete"])
async def test_the_deletion_policy_decides_about_the_video_of_a_succeeded_job(
    world: World, operator: OperatorProcess, policy: str
) -> None:
    await world.everything()
    await world.job(output={"deletionPolicy": policy})
    job = await world.phase("Succeeded")
    await put_video(world, job.metadata.uid)
    await world.client.delete(VIDEO_JOBS, "job", world.namespace)
    await world.gone()
    videos = list((world.store / world.namespace / job.metadata.uid).rglob("*.mp4"))
    assert bool(videos) == (policy == "Retain")


async def test_a_deletion_never_hangs_on_a_store_that_fails(world: World, operator: OperatorProcess) -> None:
    await world.queue()
    await world.models()
    # A file where the store's folder should be: every request fails until it is gone.
    world.store.write_text("in the way")
    await world.pools()
    await world.runner()
    await world.job()
    job = await world.phase("Succeeded")
    await world.client.delete(VIDEO_JOBS, "job", world.namespace)
    await world.gone()
    event = await world.event("FilesOrphaned")
    assert job.status.store_uri in event["message"]
    assert [key for key in await orphans(world) if key.startswith(job.metadata.uid)]
    world.store.unlink()

    async def worked_off() -> bool | None:
        return True if job.metadata.uid not in await orphans(world) else None

    await until(worked_off, "the orphaned files are removed once the store answers")


async def test_a_deletion_never_hangs_on_a_pool_that_is_gone(world: World, operator: OperatorProcess) -> None:
    await world.queue()
    await world.models()
    await world.pools(store={"url": "s3://nowhere/videos", "endpoint": "http://127.0.0.1:1"})
    await world.runner()
    await world.job()
    job = await world.phase("Succeeded")
    await world.client.delete(GPU_POOLS, world.pool)
    await world.client.delete(VIDEO_JOBS, "job", world.namespace)
    await world.gone()
    (listed,) = [json.loads(text) for key, text in (await orphans(world)).items() if key.startswith(job.metadata.uid)]
    assert listed["storeUrl"] == "s3://nowhere/videos"


async def test_a_finished_job_is_deleted_after_its_time_to_live(world: World, operator: OperatorProcess) -> None:
    await world.everything()
    await world.job(ttlSecondsAfterFinished=1)
    await world.phase("Succeeded")
    await world.gone()


async def test_a_job_that_fails_too_often_fails_for_good(world: World, operator: OperatorProcess) -> None:
    runner = await world.everything(behave=fail)
    await world.job(backoffLimit=1)
    job = await world.phase("Failed")
    assert (job.status.reason, job.status.failures, job.status.attempts) == ("BackoffLimitExceeded", 2, 2)
    failed = find(job.status.conditions, ConditionType.FAILED)
    assert failed is not None
    assert failed.message.endswith("ChunkFailed: Chunk 0 failed on purpose.")
    assert [attempt for _, attempt, _ in runner.seen] == [1, 2]
    await world.event("BackoffLimitExceeded")
    assert await operator.metric("videojob_retries_total", pool=world.pool) == 1


async def test_a_job_that_runs_beyond_its_deadline_fails(world: World, operator: OperatorProcess) -> None:
    await world.everything(behave=hold)
    await world.job(activeDeadlineSeconds=1)
    job = await world.phase("Failed")
    assert job.status.reason == "DeadlineExceeded"


async def test_a_job_whose_replica_is_lost_goes_to_another(world: World, operator: OperatorProcess) -> None:
    await world.queue()
    await world.models()
    await world.pools("r0", "r1")
    doomed = await world.runner("r0", behave=hold)
    await world.job()
    before = await world.phase("Running")
    await doomed.stop()
    await world.runner("r1", behave=finish)
    job = await world.phase("Succeeded")
    assert (job.status.attempts, job.status.failures) == (2, 0)
    assert job.status.resolved == before.status.resolved
    await world.event("ReplicaLost")
    await world.event("Assigned")
    assert await operator.metric("videojob_reassignments_total", pool=world.pool, reason="ReplicaLost") == 1
    # The lost runner, should it wake up, cannot write.
    fence = attempt_fence(1, world.pool, "r0")
    late = [*fence, {"op": "add", "path": "/status/phase", "value": "Running"}]
    with pytest.raises(KubeError) as refused:
        await world.client.json_patch(VIDEO_JOBS, "job", late, world.namespace, "status")
    assert refused.value.conflict


async def test_a_lost_replica_does_not_save_a_job_from_being_cancelled(world: World, operator: OperatorProcess) -> None:
    doomed = await world.everything(behave=hold)
    await world.job()
    await world.phase("Running")
    await doomed.stop()
    await world.change(cancel=True)
    await world.phase("Cancelled")


async def test_a_replica_that_is_asked_to_drain_gets_no_more_jobs(world: World, operator: OperatorProcess) -> None:
    runner = await world.everything("r0", "r1")
    await world.ready(2)
    annotation = {"metadata": {"annotations": {DRAIN_ANNOTATION: "maintenance"}}}
    await world.client.merge_patch(LEASES, lease_name(world.pool, "r0"), annotation, NAMESPACE)

    await world.ready(1)
    for index in range(4):
        await world.job(f"job-{index}")
    for index in range(4):
        await world.phase("Succeeded", f"job-{index}")
    assert {replica for _, _, replica in runner.seen} == {"r1"}


async def test_a_queue_that_is_drained_takes_its_jobs_back(world: World, operator: OperatorProcess) -> None:
    await world.everything(behave=hold)
    await world.job()
    await world.phase("Running")
    await stop_queue(world, "HoldAndDrain")
    job = await world.waits("QueueStopped")
    assert job.status.assignment is None
    await stop_queue(world, "None")
    again = await world.phase("Running")
    assert again.status.attempts == 2


async def test_jobs_of_other_controllers_are_left_alone(world: World, operator: OperatorProcess) -> None:
    await world.everything()
    await world.job("theirs", managedBy="example.com/other")
    await world.job("ours")
    await world.phase("Succeeded", "ours")
    theirs = await world.read("theirs")
    assert theirs is not None
    assert (theirs.status.phase.value, theirs.metadata.finalizers, theirs.status.attempts) == ("Pending", (), 0)


async def test_pools_and_queues_have_counts_and_conditions(world: World, operator: OperatorProcess) -> None:
    await world.everything("r0", behave=hold, slots=1)
    await world.job("runs")
    await world.phase("Running", "runs")
    await world.job("waits")

    async def counted() -> bool | None:
        queue = VideoQueue.model_validate(await world.client.get(VIDEO_QUEUES, "default", world.namespace))
        pool = GPUPool.model_validate(await world.client.get(GPU_POOLS, world.pool))
        counts = (queue.status.pending_jobs, queue.status.active_jobs, pool.status.running_jobs, pool.status.slots)
        return True if counts == (1, 1, 1, 1) else None

    await until(counted, "queue and pool count their jobs")


async def test_nothing_is_written_while_nothing_changes(world: World, operator: OperatorProcess) -> None:
    await world.everything(behave=hold, slots=1)
    await world.job("runs")
    await world.job("waits")
    await world.job("impossible", width=4096)
    await world.waits("ExceedsModelLimits", "impossible")

    async def other_writes() -> tuple[float, float]:
        total = await operator.metric("videojob_operator_api_writes_total")
        renewals = await operator.metric("videojob_operator_api_writes_total", kind="leases")
        return total - renewals, renewals

    quiet_since = [await other_writes()]

    async def quiet() -> bool | None:
        writes, renewals = await other_writes()
        if writes != quiet_since[0][0]:
            quiet_since[0] = (writes, renewals)
        return True if renewals >= quiet_since[0][1] + 4 else None

    await until(quiet, "four renewals of the leader's Lease with no other write between them")


async def test_metrics_name_no_job_and_no_prompt(world: World, operator: OperatorProcess) -> None:
    await world.everything()
    await world.job("very-secret-name")
    job = await world.phase("Succeeded", "very-secret-name")
    text = await operator.metrics()
    assert await operator.metric("videojob_jobs", namespace=world.namespace, phase="Succeeded", pool=world.pool) == 1
    assert await operator.metric("videojob_queue_seconds_count", namespace=world.namespace) == 1
    assert await operator.metric("videojob_operator_leader") == 1
    assert "videojob_heartbeat_age_seconds" in text
    for private in ("very-secret-name", job.metadata.uid, "private prompt"):
        assert private not in text


async def test_probes_report_that_the_operator_works(operator: OperatorProcess) -> None:
    assert await operator.probe("/livez") == (200, "ok")
    assert await operator.probe("/readyz") == (200, "ok")


async def put_video(world: World, uid: str) -> None:
    """What a runner leaves in the store: a chunk, and the video."""
    store = JobStore(open_store(world.store.as_uri()), world.namespace, uid)
    video = world.store.parent / "video.mp4"
    video.write_bytes(b"video")
    await store.commit_output(attempt=1, path=video, frames=16, duration_seconds=1.0)
    chunk = world.store / world.namespace / uid / "attempts" / "1" / "0.mp4"
    chunk.parent.mkdir(parents=True, exist_ok=True)
    chunk.write_bytes(b"chunk")


async def orphans(world: World) -> dict[str, str]:
    found = await world.client.get(CONFIG_MAPS, "videojob-orphans", NAMESPACE)
    return dict(found.get("data") or {})


async def stop_queue(world: World, policy: str) -> None:
    await world.client.merge_patch(VIDEO_QUEUES, "default", {"spec": {"stopPolicy": policy}}, world.namespace)
