"""What the demo reports about a job."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from dev.demo import describe, remaining, summary
from videojob.api.videojob import VideoJob

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WAITING = {
    "type": "Assigned",
    "status": "False",
    "lastTransitionTime": NOW.isoformat(),
    "reason": "PoolNotReady",
    "message": "Pool local has no live replica.",
}
TIMING = {"firstFrameSeconds": 2.25, "realTimeFactor": 1.5, "stages": {"denoise": 1.25, "vaeDecode": 3.0}}


def job(**status: Any) -> VideoJob:
    spec = {"model": "tiny-anyflow", "shots": [{"prompt": "A fox.", "seconds": 3}]}
    return VideoJob.model_validate({"metadata": {"name": "one-shot"}, "spec": spec, "status": status})


@pytest.mark.parametrize(
    ("status", "line"),
    [
        pytest.param({}, "Pending", id="nothing known yet"),
        pytest.param(
            {"phase": "Pending", "reason": "PoolNotReady", "conditions": [WAITING]},
            "Pending, Pool local has no live replica.",
            id="waits, with the reason",
        ),
        pytest.param(
            {
                "phase": "Running",
                "reason": "Running",
                "progress": {"chunksDone": 2, "chunksTotal": 5, "secondsReady": 0.8125},
                "timing": TIMING,
            },
            "Running, 2 of 5 chunks, 0.8 s of video ready, first frame after 2.2 s",
            id="running",
        ),
        pytest.param(
            {
                "phase": "Failed",
                "reason": "PoolNotReady",
                "conditions": [WAITING],
                "progress": {"chunksDone": 2, "chunksTotal": 5, "secondsReady": 0.5},
            },
            "Failed, 2 of 5 chunks, 0.5 s of video ready, Pool local has no live replica.",
            id="failed, with the reason",
        ),
    ],
)
def test_describe(status: dict[str, Any], line: str) -> None:
    assert describe(job(**status)) == line


@pytest.mark.parametrize(
    ("phase", "seconds", "text"),
    [
        pytest.param("Running", 4, ", about 4 s left", id="running"),
        pytest.param("Running", -4, ", about 0 s left", id="late"),
        pytest.param("Running", None, "", id="unknown"),
        pytest.param("Succeeded", -4, "", id="done"),
    ],
)
def test_remaining(phase: str, seconds: int | None, text: str) -> None:
    estimate = {} if seconds is None else {"estimatedCompletionTime": (NOW + timedelta(seconds=seconds)).isoformat()}
    assert remaining(job(phase=phase, **estimate), NOW) == text


def test_summary_shows_what_the_video_took() -> None:
    output = {"uri": "s3://bucket/a.mp4", "sha256": "0", "sizeBytes": 1_500_000, "frames": 48, "durationSeconds": 3.0}
    done = job(phase="Succeeded", timing=TIMING, output=output, cost={"gpuSeconds": {"total": 4.25}})
    console = Console(width=200, color_system=None)
    with console.capture() as shown:
        console.print(summary(done))
    for expected in ("2.25 s", "1.50", "denoise 1.25, vae decode 3.00", "1.50 MB", "48 (3.00 s)", "s3://bucket/a.mp4"):
        assert expected in shown.get()
