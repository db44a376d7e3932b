"""One job through the whole system, followed from outside: the API's watch, and the files in the store."""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from time import time
from typing import Any

from tests.bench.breakdown import Chunk, Moments, pieces
from tests.bench.subjects import Subject
from tests.e2e.system import System
from videojob.api.videojob import Phase, StageSeconds, VideoJob
from videojob.kube.client import VIDEO_JOBS, Listing

JOB_SECONDS = 300.0
"""After which a job counts as never ending."""
LOOK_SECONDS = 0.01
"""Between looks at the store: the last chunk's record is there only while the video is joined."""


@dataclass(frozen=True)
class Done:
    """A job that has succeeded; times in seconds."""

    wall: float
    """From before its creation until a watch showed Succeeded."""
    first_frame: float
    status_first_frame: float
    """As on the status: from a creation time that Kubernetes cuts to whole seconds."""
    stages: StageSeconds
    frames: int
    sha256: str
    attempts: int
    pieces: dict[str, float] | None
    """None where the last piece's record was gone before it was seen."""


async def make_video(system: System, name: str, subject: Subject, **spec: Any) -> Done:
    """Submit a job for the subject's video and follow it to its end."""
    records = _Records(system, subject)
    created = time()
    await system.submit(name, **spec)
    looking = asyncio.create_task(records.look())
    try:
        async with asyncio.timeout(JOB_SECONDS):
            job = await _finished(system, name, records)
        finished = time()
    finally:
        looking.cancel()
    status = job.status
    assert status.phase is Phase.SUCCEEDED, status
    timing, output = status.timing, status.output
    assert timing is not None and timing.first_frame_seconds is not None and output is not None
    return Done(
        wall=finished - created,
        first_frame=_born(job) + timing.first_frame_seconds - created,
        status_first_frame=timing.first_frame_seconds,
        stages=timing.stages,
        frames=output.frames,
        sha256=system.output_sha256(status),
        attempts=status.attempts,
        pieces=records.pieces(job, created, finished),
    )


async def _finished(system: System, name: str, records: "_Records") -> VideoJob:
    async for event in system.client.watch(VIDEO_JOBS, system.namespace, fieldSelector=f"metadata.name={name}"):
        job = VideoJob.model_validate(event.items[0] if isinstance(event, Listing) else event.object)
        records.uid = job.metadata.uid
        if job.status.phase.finished:
            return job
    raise AssertionError("a watch ends only with an error")


def _born(job: VideoJob) -> float:
    birth = job.metadata.creation_timestamp
    assert isinstance(birth, datetime)
    return birth.timestamp()


class _Records:
    """The records of a job's pieces in the store while it is made; the system removes it at the end."""

    def __init__(self, system: System, subject: Subject) -> None:
        self._system = system
        self._pieces = subject.plan.pieces
        self._seen: dict[int, Chunk] = {}
        self._last_segment = self._last_commit = 0.0
        self.uid = ""

    async def look(self) -> None:
        """Look, until cancelled."""
        while True:
            if self.uid:
                for index in range(len(self._pieces)):
                    if index not in self._seen:
                        self._note(index)
            await asyncio.sleep(LOOK_SECONDS)

    def pieces(self, job: VideoJob, created: float, finished: float) -> dict[str, float] | None:
        """The job's wall time in pieces, if every record was seen."""
        timing = job.status.timing
        assert timing is not None and timing.queued_seconds is not None
        if len(self._seen) < len(self._pieces):
            return None
        moments = Moments(
            created=created,
            first_request=_born(job) + timing.queued_seconds,
            last_segment=self._last_segment,
            last_commit=self._last_commit,
            output=(self._system.store / self._system.namespace / self.uid / "output.json").stat().st_mtime,
            finished=finished,
        )
        return pieces([self._seen[index] for index in range(len(self._pieces))], moments)

    def _note(self, index: int) -> None:
        folder = self._system.store / self._system.namespace / self.uid
        record = folder / "segments" / f"{index}.json"
        try:
            segment = folder / self._system.records(self.uid)[index]["segment"]["key"]
            moments = segment.stat().st_mtime, record.stat().st_mtime
            last = self._pieces[index].units[-1]
            unit = self._system.records(self.uid, "latents")[last]["stage_seconds"]
            piece = self._system.records(self.uid)[index]["stage_seconds"]
        except (FileNotFoundError, KeyError):
            return
        first = index == 0 or self._pieces[index - 1].units[-1] != last
        text, denoise = (unit["text_encode"], unit["denoise"]) if first else (0.0, 0.0)
        self._seen[index] = Chunk(text, denoise, piece["vae_decode"], piece["mux"])
        self._last_segment, self._last_commit = moments
