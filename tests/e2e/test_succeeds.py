"""A job becomes a video, with status, Events and metrics."""

import asyncio
from pathlib import Path

import pytest

from tests.e2e.system import MODEL, System
from videojob.api.conditions import ConditionType
from videojob.api.videojob import Phase
from videojob.kube.client import EVENTS, VIDEO_JOBS, Change
from videojob.media import probe

pytestmark = pytest.mark.timeout(900)


async def test_a_job_becomes_a_video(system: System) -> None:
    await system.submit("plain", width=80, height=64, fps=8, seconds=5)

    status = await system.until_finished("plain")

    assert status.phase is Phase.SUCCEEDED, status
    assert system.condition(status, ConditionType.COMPLETE)[:2] == ("True", "Succeeded")
    assert system.condition(status, ConditionType.RUNNING)[0] == "False"
    assert (status.attempts, status.failures) == (1, 0)
    # 40 frames: chunk 0 makes 1, each later one 12, and 9 of the last are dropped.
    assert status.progress is not None
    assert status.progress.summary == "5/5"
    assert status.progress.seconds_ready == 5.0
    assert status.output is not None
    assert (status.output.frames, status.output.duration_seconds) == (40, 5.0)
    system.output_sha256(status)
    video = probe(system.path(status.output.uri))
    assert (video.frames, video.duration_seconds, video.width, video.height) == (40, 5, 80, 64)


async def test_time_and_cost_are_on_the_status(system: System) -> None:
    await system.submit("measured", prompt="a prompt that no other job has")

    status = await system.until_finished("measured")

    timing, cost = status.timing, status.cost
    assert timing is not None and cost is not None and cost.per_video_second is not None
    assert timing.queued_seconds is not None and timing.first_frame_seconds is not None
    assert 0 <= timing.queued_seconds < timing.first_frame_seconds
    assert all(seconds > 0 for seconds in timing.stages.model_dump().values()), timing.stages
    assert timing.real_time_factor is not None and timing.real_time_factor > 0
    # One accelerator a replica: GPU-seconds are the compute seconds of the three stages.
    stages, gpu = timing.stages, cost.gpu_seconds
    assert (gpu.text_encode, gpu.denoise, gpu.vae_decode) == (stages.text_encode, stages.denoise, stages.vae_decode)
    assert abs(gpu.total - (gpu.text_encode + gpu.denoise + gpu.vae_decode)) < 0.01
    assert abs(cost.per_video_second - gpu.total / 4) < 0.01


async def test_a_video_can_be_watched_while_it_is_made(system: System) -> None:
    await system.submit("watched", seconds=20, output={"formats": ["MP4", "HLS"]})

    status = (await system.job("watched")).status
    while status.playlist_uri is None and not status.phase.finished:
        await asyncio.sleep(0.1)
        status = (await system.job("watched")).status
    assert status.phase is Phase.RUNNING and status.playlist_uri is not None
    growing = system.path(status.playlist_uri)
    assert "EVENT" in growing.read_text()
    assert probe(growing).frames > 1

    status = await system.until_finished("watched")
    assert status.phase is Phase.SUCCEEDED, status
    assert status.output is not None and status.output.playlist_uri is not None
    whole = system.path(status.output.playlist_uri)
    assert growing.read_text() == whole.read_text()
    assert whole.read_text().endswith("#EXT-X-ENDLIST\n")
    played, file = probe(whole), probe(system.path(status.output.uri))
    assert (played.frames, played.width, played.height) == (file.frames, file.width, file.height)
    assert not list(growing.parent.parent.rglob("*.safetensors"))


async def test_writes_are_few(system: System) -> None:
    """At most one a second, and the last: not one a chunk."""
    await system.submit("frugal", seconds=20)
    versions: set[str] = set()

    async def watch() -> None:
        async for event in system.client.watch(VIDEO_JOBS, system.namespace, fieldSelector="metadata.name=frugal"):
            if isinstance(event, Change) and event.object["status"].get("startTime"):
                versions.add(event.object["metadata"]["resourceVersion"])

    watching = asyncio.create_task(watch())
    status = await system.until_finished("frugal")
    watching.cancel()

    assert status.progress is not None and status.progress.chunks_total == 21
    assert status.timing is not None
    # The operator's assignment, one a second, the end.
    assert len(versions) <= 1 + status.timing.running_seconds + 1


async def test_only_the_video_stays_in_the_store(system: System) -> None:
    await system.submit("tidy")

    await system.until_finished("tidy")

    uid = (await system.job("tidy")).metadata.uid
    await system.until(lambda: system.has_only_its_video(uid), "its chunks are not discarded")


async def test_the_end_is_an_event(system: System) -> None:
    await system.submit("observed")

    await system.until_finished("observed")

    async def reasons() -> bool:
        events = await system.client.list(EVENTS, system.namespace, fieldSelector="involvedObject.name=observed")
        return "Succeeded" in {event["reason"] for event in events["items"]}

    await system.until(reasons, "there is no Event that the job has succeeded")


async def test_jobs_share_nothing_but_the_server(system: System) -> None:
    """The same job gives the same bytes, whatever ran before; another seed gives others."""
    for name, seed in (("first", 7), ("other", 8), ("again", 7)):
        await system.submit(name, seed=seed)

    first, other, again = [await system.until_finished(name) for name in ("first", "other", "again")]

    assert system.output_sha256(first) == system.output_sha256(again)
    assert system.output_sha256(first) != system.output_sha256(other)


async def test_two_jobs_share_a_replica_chunk_by_chunk(system: System) -> None:
    """Neither waits for the other's end, and each gives the bytes that it gives alone."""
    quiet = [await system.undisturbed(), await system.undisturbed(seed=8)]
    faults = system.replicas["blue"].faults
    await system.resize(2)
    try:
        await system.until(lambda: slots(system, 2), "the replica does not take two jobs")
        faults.clear()
        faults.hold("denoiser", 1)
        await system.submit("left")
        await system.submit("right", seed=8)
        for name in ("left", "right"):
            await system.until_status(name, lambda status: status.phase is Phase.RUNNING, f"{name} does not run")
        faults.release("denoiser")
        ended = [await system.until_finished(name) for name in ("left", "right")]
    finally:
        await system.resize(1)
        await system.until(lambda: slots(system, 1), "the replica still takes two jobs")

    assert [system.output_sha256(status) for status in ended] == quiet
    begun = [chunk for chunk, step, _ in faults.steps("denoiser") if step == 1]
    assert sorted(begun) == sorted([*range(5), *range(5)])
    for chunk in (1, 2):  # With two requests each in flight, no job is further ahead than that.
        assert begun[: begun.index(chunk + 2)].count(chunk) == 2, begun


async def slots(system: System, count: int) -> bool:
    return (await system.report("blue")).slots == count


async def test_a_prompt_that_is_too_long_fails_at_once_with_both_counts(system: System) -> None:
    await system.submit("long", prompt="x" * 600)

    status = await system.until_finished("long")

    assert (status.phase, status.reason, status.attempts) == (Phase.FAILED, "PromptTooLong", 1)
    message = system.condition(status, ConditionType.FAILED)[2]
    assert "601" in message and "512" in message


async def test_a_video_that_drifts_too_far_stops_there(system: System) -> None:
    """The model's threshold is one that whatever moves passes: the first chunk that is compared is the third."""
    await system.submit("drifting", driftPolicy="Stop")

    status = await system.until_finished("drifting")

    assert (status.phase, status.reason, status.attempts, status.failures) == (Phase.FAILED, "DriftedTooFar", 1, 0)
    assert system.condition(status, ConditionType.FAILED)[2].startswith("In motion, shots[0] has drifted by ")
    assert status.progress is not None and status.progress.summary == "3/5"
    assert status.drift is not None and status.drift.motion is not None
    assert (status.drift.motion.shot, status.drift.motion.second) == (0, 1.083)


async def test_a_video_that_drifts_is_refreshed(system: System) -> None:
    """By unit 2 for the first time, which is unit 5."""
    await system.submit("refreshed", seconds=8.0, driftPolicy="Refresh")

    status = await system.until_finished("refreshed")

    assert status.phase is Phase.SUCCEEDED, status
    assert status.drift is not None and status.drift.refreshes == 2
    assert status.output is not None and status.resolved is not None and status.resolved.chunks == 9
    plain = await system.undisturbed(seconds=8.0)
    assert system.output_sha256(status) != plain


async def test_a_size_that_the_model_refuses_fails_at_once(system: System) -> None:
    """It can never pass: no attempt after the first takes a replica's time."""
    await system.submit("small", width=16, height=16)

    status = await system.until_finished("small")

    assert (status.phase, status.reason, status.attempts) == (Phase.FAILED, "InvalidRequest", 1)
    assert "must be multiples of 16 and at least" in system.condition(status, ConditionType.FAILED)[2]


async def test_metrics_name_no_job(system: System, tmp_path: Path) -> None:
    await system.submit("counted")
    await system.until_finished("counted")

    metrics = await system.metrics("blue")

    labels = {"pool": system.pool, "replica": "blue", "model": MODEL}
    rows = ",".join(f'{name}="{value}"' for name, value in sorted(labels.items()))
    assert f"videojob_runner_chunks_total{{{rows}}}" in metrics
    for stage in ("text_encode", "denoise", "vae_decode", "mux", "upload"):
        assert f'stage="{stage}"' in metrics
    place = f'{{pool="{system.pool}",replica="blue"}}'
    assert "videojob_runner_heartbeat_age_seconds" in metrics
    assert f"videojob_runner_checkpoint_age_seconds{place} 0.0" in metrics
    assert f"videojob_runner_slots{place} 1.0" in metrics
    assert f"videojob_runner_overlap_seconds_total{{{rows}}}" in metrics
    assert "counted" not in metrics and (await system.job("counted")).metadata.uid not in metrics


async def test_logs_name_the_job_and_never_the_prompt(system: System) -> None:
    await system.submit("logged", prompt="a secret that is nobody's business")
    await system.until_finished("logged")
    job = await system.job("logged")

    records = system.log_records("blue")

    about = [record for record in records if record.get("job_uid") == job.metadata.uid]
    assert {(record["job_namespace"], record["job_name"], record["attempt"]) for record in about} == {
        (system.namespace, "logged", 1)
    }
    assert any("Succeeded" in str(record["message"]) for record in about)
    assert all(record in about for record in records if "logged" in str(record["message"]))
    for log in (system.replicas["blue"].log, system.folder / "operator.log", system.folder / "blue" / "triton.log"):
        assert "nobody's business" not in log.read_text()
