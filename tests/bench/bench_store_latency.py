"""What a slow network to the store costs: a commit, and the slot between two jobs. A real S3 server, 40 ms a request.

Beside each the plain way in the same run: requests one after the other, and a video that is joined once its last piece
is there.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from time import perf_counter
from types import SimpleNamespace
from typing import Any, cast

import obstore
import pytest
from prometheus_client import CollectorRegistry

from tests.runner.builders import OWNER, SMALL, Chunk, assigned_job, made, wire
from tests.runner.fakes import Api, fresh
from tests.runner.test_serving import model
from tests.s3 import S3Server, s3_server
from videojob.api.videojob import Resolved, VideoJob
from videojob.families import Shot, Video
from videojob.kube.client import Listing
from videojob.media import remux
from videojob.runner import video as video_module
from videojob.runner.accounting import Checkpoints
from videojob.runner.assignments import Assignments, Work
from videojob.runner.attempt import Attempt
from videojob.runner.clock import Clock
from videojob.runner.metrics import RunnerMetrics
from videojob.runner.slots import Slots
from videojob.store import JobStore, Store, open_store
from videojob.store.objects import Objects

__all__ = ["s3_server"]

REQUEST_SECONDS = 0.040
COMMITS = 20
PIECES = 100
CHECKPOINT = bytes(1 << 20)


@pytest.fixture
def store(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A bucket whose every request takes 40 ms more."""
    run = Objects._run

    async def delayed(
        objects: Objects, doing: str, action: Callable[[asyncio.Timeout], Awaitable[Any]], *more: float
    ) -> Any:
        await asyncio.sleep(REQUEST_SECONDS)
        return await run(objects, doing, action, *more)

    monkeypatch.setattr(Objects, "_run", delayed)
    url = f"s3://{s3_server.bucket()}/videos"
    return open_store(url, endpoint=s3_server.endpoint, region="us-east-1", credentials=s3_server.credentials)


async def seconds(work: Awaitable[object]) -> float:
    """How long it takes."""
    began = perf_counter()
    await work
    return perf_counter() - began


async def plain_commit(store: Store, index: int) -> None:
    """HEAD, PUT, PUT of the record, LIST: each once the one before has been answered."""
    objects, record = Objects(store), f"plain/latents/{index}.json"

    async def head(limit: asyncio.Timeout) -> None:
        with pytest.raises(FileNotFoundError):
            await obstore.head_async(store, f"plain/{index}")

    await objects._run("look", head)
    await objects.create(f"plain/{index}", CHECKPOINT)
    await objects.create(record, b"{}" * 200)
    await objects.list("plain/closed")


async def test_commit(store: Store) -> None:
    """Prints the table; nothing is asserted, because times are this machine's."""
    job = JobStore(store, "team", "commits")
    await job.committed()
    ours, plain = list[float](), list[float]()
    for index in range(COMMITS):
        commit = job.commit_unit(index=index, attempt=1, checkpoint=CHECKPOINT, stage_seconds={})
        ours.append(await seconds(commit))
        plain.append(await seconds(plain_commit(store, index)))
    print(f"\n\nCommit of a unit of 1 MiB at {REQUEST_SECONDS * 1e3:.0f} ms a request, median of {COMMITS}:")
    print(f"  ours {median(ours) * 1e3:.0f} ms, one request after the other {median(plain) * 1e3:.0f} ms", end="")
    print(f", ratio {median(ours) / median(plain):.2f}")


class Replica:
    """A replica of one slot, whose accelerator makes frames in no time."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.begun: dict[str, float] = {}
        """When the first request of each job was made."""
        self.decoded: dict[str, float] = {}
        """When its last frames were there."""
        self.ended = asyncio.Event()
        self.metrics = RunnerMetrics(CollectorRegistry(), "p", "r")
        self.assignments = Assignments(self.run, Slots(1), self.metrics, lambda: None)

    async def run(self, job: VideoJob, work: Work) -> None:
        """An attempt, as the runner makes it."""
        api = Api(wire(job))
        served = SimpleNamespace(model=model(Path("/models"), SMALL.model_uid, "tiny"), digest=SMALL.weights_digest)

        async def take(*_: object) -> object:
            return served

        async def files(namespace: str, uid: str) -> JobStore:
            return JobStore(self.store, namespace, uid)

        services = SimpleNamespace(
            kube=api.client,
            clock=Clock(),
            metrics=self.metrics,
            triton=self,
            serving=SimpleNamespace(take=take, give_back=lambda served: None),
            buffers=job.metadata.uid,
            store=SimpleNamespace(job=files, watched=nullcontext),
            checkpoints=Checkpoints(),
            judge=SimpleNamespace(made=lambda: None),
            accelerators=1,
            ready_seconds=5.0,
            permission=fresh(),
        )
        resolved = cast("Resolved", job.status.resolved)
        attempt = Attempt(cast("Any", services), job, resolved, OWNER, work.stop, work.generation, work.free_slot)
        await attempt.run()
        assert api.status["phase"] == "Succeeded", api.status
        if not self.assignments.held[1:]:
            self.ended.set()


class InNoTime:
    """A `Pipeline` whose frames are there at once."""

    def __init__(self, recipe: Any, triton: Replica, uid: str, clock: object, *keep: Any) -> None:
        self._replica, self._uid, self._plan = triton, uid, recipe.plan
        self._keep_unit, self._keep_piece, _ = keep

    async def run(self, *_: object) -> None:
        """Keep every chunk."""
        self._replica.begun[self._uid] = perf_counter()
        for chunk in chunks(len(self._plan.pieces)):
            self._replica.decoded[self._uid] = perf_counter()
            await self._keep_unit(chunk.unit)
            await self._keep_piece(chunk.piece)


def chunks(count: int) -> list[Chunk]:
    """Of a video of so many."""
    return [made(index) for index in range(count)]


def job(uid: str, pieces: int) -> VideoJob:
    """An assigned one."""
    found = assigned_job()
    plan = model(Path("/models")).spec.plan(Video((Shot(2 * pieces),), SMALL.rate, SMALL.steps))
    resolved = SMALL.model_copy(update={"frames": 2 * pieces, "chunks": len(plan.pieces)})
    return found.model_copy(
        update={
            "metadata": found.metadata.model_copy(update={"uid": uid, "name": uid}),
            "status": found.status.model_copy(update={"resolved": resolved}),
        }
    )


async def plain_end(files: JobStore, folder: Path) -> None:
    """Read every segment back one by one, join them, upload the video."""
    segments = [await files.read_segment(record) for record in (await files.committed()).pieces]
    await asyncio.to_thread(remux, segments, folder / "plain.mp4", SMALL.rate)
    await files.commit_output(attempt=1, path=folder / "plain.mp4", frames=1, duration_seconds=1.0)


@pytest.mark.timeout(300)
async def test_slot_between_two_jobs(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prints the table. Both jobs are assigned: what the operator takes is not in it."""
    monkeypatch.setattr(video_module, "Pipeline", InNoTime)
    replica, first = Replica(store), job("first", PIECES)
    replica.assignments.see(Listing([wire(first), wire(job("second", 2))]))
    await asyncio.wait_for(replica.ended.wait(), 200)
    idle = replica.begun["second"] - replica.decoded["first"]

    files = JobStore(store, "team", "plain")
    for chunk in chunks(PIECES):
        unit = await files.commit_unit(
            index=chunk.unit.index, attempt=1, checkpoint=chunk.unit.checkpoint, stage_seconds={}
        )
        await files.commit_piece(
            index=chunk.piece.index,
            attempt=1,
            frames=2,
            segment=chunk.piece.segment,
            units=[unit.record],
            stage_seconds={},
        )
    plain = idle + await seconds(plain_end(files, tmp_path))
    print(f"\n\nSlot idle between two jobs, the first of {PIECES} pieces, at {REQUEST_SECONDS * 1e3:.0f} ms a request:")
    print(f"  ours {idle:.2f} s, with the video joined at the end {plain:.2f} s, ratio {idle / plain:.2f}")
