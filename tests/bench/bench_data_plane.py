"""How fast the data plane is: the same video through the whole system and through a bare diffusers loop, in turns.

Both sides are warm, use the same model in float32 on all cores, encode with the same settings, and end with one MP4 in
a local folder. VIDEOJOB_BENCH_RUNS sets the number of rounds.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from dev.control_plane import Cluster
from dev.supervisor import REPOSITORY
from tests.bench.bare_loop import CHUNKING, CHUNKS, FRAMES, PLAN, BareLoop, Made, Order, bare_loop
from tests.bench.cpu import busy_seconds, tree_seconds
from tests.bench.data_plane_table import OTHERS, Run, table
from tests.bench.through_system import Done, make_video
from tests.e2e.system import System
from videojob.kube.client import GPU_POOLS, KubeClient

T = TypeVar("T", Done, Made)

RUNS = int(os.environ.get("VIDEOJOB_BENCH_RUNS", "5"))
BARE_THREADS = (1, 2)
MODEL = "bench"
REPLICA = "r0"
WIDTH, HEIGHT, STEPS, FPS = 128, 64, 3, 17


@pytest.mark.timeout(1800)
async def test_data_plane(cluster: Cluster, client: KubeClient, namespace: str, tmp_path: Path) -> None:
    """Prints tables; asserted is only that both sides made the same video, because times are this machine's."""
    jobs: list[Run[Done]] = []
    loops: dict[int, list[Run[Made]]] = {threads: [] for threads in BARE_THREADS}
    async with bench(cluster, client, namespace, tmp_path) as both:
        for take in range(RUNS + 1):
            prompt = f"A red fox trots through fresh snow, take {take}."  # A new one, which nobody has cached.
            for threads in BARE_THREADS:
                order = Order(prompt, take, WIDTH, HEIGHT, STEPS, FPS, threads)
                loops[threads].append(await both.measured(partial(both.bare.make, order)))
            job = await both.measured(partial(both.through_system, f"take-{take}", prompt, take))
            jobs.append(job)
            assert {job.made.frames, *(runs[-1].made.frames for runs in loops.values())} == {FRAMES}
            if both.triton_threads in loops:  # Then the arithmetic is the same, to the last bit.
                assert job.made.sha256 == loops[both.triton_threads][-1].made.sha256
    print(f"\n\nData plane: {CHUNKS} chunks, {FRAMES} frames of {WIDTH}x{HEIGHT}, {STEPS} steps, float32, {RUNS} runs.")
    memory = f"Sink {CHUNKING.sink} and window {CHUNKING.window}"
    print(f"  {memory} latents hold all of the past, to which the bare loop attends as well.")
    print("  Both sides start from the same noise. The system runs whole, and idle while the bare loop works.\n")
    # The first take of each warmed it up.
    table(both.triton_threads, jobs[1:], {threads: runs[1:] for threads, runs in loops.items()})


@dataclass
class Bench:
    """Both sides, running."""

    system: System
    bare: BareLoop
    triton_threads: int
    """CPU threads of each stage, as the runner has configured Triton."""

    async def through_system(self, name: str, prompt: str, seed: int) -> Done:
        """Make a video with the system."""
        size = {"width": WIDTH, "height": HEIGHT, "steps": STEPS, "fps": FPS}
        return await make_video(
            self.system, name, chunks=CHUNKS, seconds=FRAMES / FPS, prompt=prompt, model=MODEL, seed=seed, **size
        )

    async def measured(self, make: Callable[[], Awaitable[T]]) -> Run[T]:
        """Make a video and look whose CPU time goes by."""
        began, before = perf_counter(), self._cpu()
        made = await make()
        after, seconds = self._cpu(), perf_counter() - began
        return Run(made, seconds, {name: after[name] - before[name] for name in after})

    def _cpu(self) -> dict[str, float]:
        """CPU seconds so far, by whose they are."""
        replica = self.system.replicas[REPLICA]
        assert self.system.operator and replica.triton and replica.runner
        parts = {
            "bare loop": tree_seconds(self.bare.pid),
            "Triton": tree_seconds(replica.triton.pid),
            "runner": tree_seconds(replica.runner.pid),
            "operator": tree_seconds(self.system.operator.pid),
        }
        all_of_ours = tree_seconds(os.getpid())
        rest = {"API server, etcd, benchmark": all_of_ours - sum(parts.values()), OTHERS: busy_seconds() - all_of_ours}
        return parts | rest


@asynccontextmanager
async def bench(cluster: Cluster, client: KubeClient, namespace: str, folder: Path) -> AsyncIterator[Bench]:
    """The whole system with one replica, and the bare loop; both have loaded the model."""
    model = make_model(folder)
    system = System(cluster, client, folder, namespace, model, pool="bench")
    try:
        system.install(REPLICA)
        replica = system.replicas[REPLICA]
        # The models as they are, without the faults that tests put into them.
        shutil.copytree(REPOSITORY / "model_repo", replica.folder / "model_repo", dirs_exist_ok=True)
        cluster.apply(video_model(model))
        await client.merge_patch(GPU_POOLS, system.pool, {"spec": {"models": [MODEL]}})
        system.start(REPLICA)
        await system.ready(REPLICA)
        async with bare_loop(model, folder / "bare", folder / "bare.log") as bare:
            yield Bench(system, bare, threads_of(replica.folder / "repository"))
    finally:
        system.stop()


def make_model(folder: Path) -> Path:
    """The benchmark's model, made by a process of its own: this one stays without torch."""
    directory = folder / "model"
    command = [sys.executable, "-m", "dev.tiny_model", str(directory), "--size", "bench"]
    with (folder / "model.log").open("wb") as log:
        subprocess.run(command, cwd=REPOSITORY, stdout=log, stderr=log, timeout=300, check=True)
    return directory


def video_model(directory: Path) -> dict[str, Any]:
    """The VideoModel. Its sink and window hold a whole video, because the bare loop remembers all of it."""
    assert len(PLAN.units[-1].needs) == CHUNKS - 1
    return {
        "apiVersion": "videojob.dev/v1alpha1",
        "kind": "VideoModel",
        "metadata": {"name": MODEL},
        "spec": {
            "family": "AnyFlowFAR",
            "source": {"directory": str(directory)},
            "precision": "float32",
            "chunk": {"firstLatents": CHUNKING.first, "latents": CHUNKING.later},
            "sinkLatents": CHUNKING.sink,
            "windowLatents": CHUNKING.window,
            "memory": {"weightsBytes": 1, "perJobBytes": 1},
            "limits": {"maxWidth": 256, "maxHeight": 256, "maxSeconds": 60},
            "defaults": {"width": WIDTH, "height": HEIGHT, "fps": FPS, "steps": STEPS},
        },
    }


def threads_of(repository: Path) -> int:
    """CPU threads of a stage in a rendered Triton repository."""
    config = text_format.Parse(
        (repository / f"{MODEL}.denoiser" / "config.pbtxt").read_text(), model_config_pb2.ModelConfig()
    )
    return int(config.parameters["threads"].string_value)
