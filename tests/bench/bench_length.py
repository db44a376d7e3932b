"""What a long video costs: the same chunk, memory and status at any length, on the whole system.

One family that is causal, at 1, 3 and 10 times the length, in turns; and the status of jobs of many shots. What counts
are the ratios. VIDEOJOB_BENCH_RUNS sets the number of rounds.
"""

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final

import pytest

from dev.control_plane import Cluster
from tests.bench.one_model import MODEL, REPLICA, one_model
from tests.bench.subjects import SUBJECTS, Subject
from tests.bench.through_system import Done, make_video
from tests.e2e.processes import children
from tests.e2e.system import System
from videojob.families import Chunking
from videojob.kube.client import VIDEO_JOBS, KubeClient
from videojob.store.records import UnitRecord
from videojob.triton.contract import Stage

RUNS = int(os.environ.get("VIDEOJOB_BENCH_RUNS", "3"))
CHUNKS: Final = 8
LENGTHS: Final = (1, 3, 10)
SHOTS: Final = (1, 8, 64)
STAGES: Final[tuple[Stage, ...]] = ("text_encoder", "denoiser", "vae_decoder")
SETTLED: Final = 4
"""Chunks after which sink and window are full: those before them have less to look at."""
SUBJECT: Final = replace(SUBJECTS["AnyFlow-FAR"], chunking=Chunking(first=1, later=3, sink=1, window=9))


@dataclass(frozen=True)
class Long:
    """What a video took, and what it left in memory."""

    done: Done
    units: Mapping[int, UnitRecord]
    resident: Mapping[str, int]
    """Bytes of each stage's process once it is done."""

    @property
    def chunk_seconds(self) -> list[float]:
        """Of denoising each chunk that has a full memory."""
        return [unit.stage_seconds["denoise"] for index, unit in self.units.items() if index >= SETTLED]

    @property
    def checkpoint_bytes(self) -> int:
        """Of the largest checkpoint."""
        return max(unit.checkpoint.size_bytes for unit in self.units.values())

    @property
    def hidden(self) -> float | None:
        """Which share of decoding, encoding and storing the viewer does not wait for, because denoising goes on."""
        if self.done.pieces is None:
            return None
        stages = self.done.stages
        waited = sum(self.done.pieces[name] for name in ("decode", "encode", "commit"))
        return 1 - waited / (stages.vae_decode + stages.mux + stages.upload)


def of_length(times: int) -> Subject:
    """The video, so many times as long: each chunk but the first has 12 frames."""
    return replace(SUBJECT, frames=1 + (CHUNKS * times - 1) * 12)


@pytest.mark.timeout(3600)
async def test_length(cluster: Cluster, client: KubeClient, namespace: str, tmp_path: Path) -> None:
    """Prints tables; asserted is only that the videos are whole, because times are this machine's."""
    made: dict[int, list[Long]] = {times: [] for times in LENGTHS}
    async with one_model(SUBJECT, cluster, client, namespace, tmp_path) as system:
        await _long(system, "warm", LENGTHS[0])
        for take in range(RUNS):
            for times in LENGTHS:
                made[times].append(await _long(system, f"take-{take}-{times}", times))
        sizes = {shots: await _status_bytes(system, shots) for shots in SHOTS}
    _print(made)
    _print_status(sizes)


async def _long(system: System, name: str, times: int) -> Long:
    subject, units = of_length(times), dict[int, UnitRecord]()
    assert len(subject.plan.units) == CHUNKS * times
    looking = asyncio.create_task(_look(system, name, units))
    try:
        spec = {**subject.job("A red fox trots through fresh snow."), "model": MODEL}
        done = await make_video(system, name, subject, **spec)
    finally:
        looking.cancel()
    assert done.frames == subject.frames
    return Long(done, dict(sorted(units.items())), _resident(system))


async def _look(system: System, name: str, units: dict[int, UnitRecord]) -> None:
    """Keep the records of units, which are deleted once the video is there."""
    while True:
        await asyncio.sleep(0.2)
        body = await system.client.get(VIDEO_JOBS, name, system.namespace) if name else None
        if body is not None:
            records = system.records(body["metadata"]["uid"], "latents")
            units |= {index: UnitRecord.model_validate_json(json.dumps(record)) for index, record in records.items()}


def _resident(system: System) -> dict[str, int]:
    triton = system.replicas[REPLICA].triton
    assert triton is not None
    found: dict[str, int] = {}
    for stage in STAGES:
        (process,) = children(triton.pid, f"/{MODEL}.{stage}/")
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        found[stage] = next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:"))
    return found


async def _status_bytes(system: System, shots: int) -> int:
    """Of a finished job of so many shots."""
    subject = replace(SUBJECT, frames=13, shots=shots)
    name = f"shots-{shots}"
    await make_video(system, name, subject, **{**subject.job("A fox."), "model": MODEL})
    body = await system.client.get(VIDEO_JOBS, name, system.namespace)
    return len(json.dumps(body["status"], separators=(",", ":")))


def _print(made: Mapping[int, Sequence[Long]]) -> None:
    print(f"\n\nLength, {SUBJECT.name}: {CHUNKS} chunks and more, {RUNS} runs; a ratio is to the shortest video.\n")
    stages = tuple(made[LENGTHS[0]][0].resident)
    _row("chunks", "seconds a chunk", "ratio", "checkpoint", "hidden", *(f"{stage}, MB" for stage in stages), "ratio")
    shortest = median(seconds for run in made[LENGTHS[0]] for seconds in run.chunk_seconds)
    before = made[LENGTHS[0]][-1].resident
    for times, runs in made.items():
        seconds = median(each for run in runs for each in run.chunk_seconds)
        shares = [run.hidden for run in runs if run.hidden is not None]
        now = runs[-1].resident
        _row(
            str(CHUNKS * times),
            f"{seconds:.3f}",
            f"{seconds / shortest:.3f}",
            str(max(run.checkpoint_bytes for run in runs)),
            f"{median(shares):.2f}" if shares else "unseen",
            *(f"{now[stage] / 1e6:.0f}" for stage in stages),
            f"{max(now[stage] / before[stage] for stage in stages):.3f}",
        )
    print("  targets: seconds and checkpoint within 2 %, memory of each stage within 5 %, hidden at least 0.90")


def _print_status(sizes: Mapping[int, int]) -> None:
    print("\n  Status of a finished job, as JSON\n")
    _row("shots", "bytes", "a shot more")
    (first, least), *more = sizes.items()
    _row(str(first), str(least))
    for shots, size in more:
        _row(str(shots), str(size), f"{(size - least) / (shots - first):.0f}")
    print("  target: at most 200 bytes a shot")


def _row(*cells: str) -> None:
    print("  " + "".join(f"{cell:>17}" for cell in cells))
