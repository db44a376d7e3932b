"""How fast the data plane is: the same video through the whole system and through a bare diffusers loop, in turns.

One video a family. Both sides are warm, use the same model in float32 on all cores, encode with the same settings, and
end with one MP4 in a local folder. VIDEOJOB_BENCH_RUNS sets the number of rounds.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from dev.control_plane import Cluster
from tests.bench.bare_loop import BareLoop, Made, Order, bare_loop
from tests.bench.cpu import busy_seconds, tree_seconds
from tests.bench.data_plane_table import OTHERS, Run, table
from tests.bench.one_model import MODEL, REPLICA, one_model
from tests.bench.subjects import SUBJECTS, Subject
from tests.bench.through_system import Done, make_video
from tests.e2e.system import System
from videojob.kube.client import KubeClient

T = TypeVar("T", Done, Made)

RUNS = int(os.environ.get("VIDEOJOB_BENCH_RUNS", "5"))
BARE_THREADS = (1, 2)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("subject", SUBJECTS.values(), ids=lambda subject: subject.name)
async def test_data_plane(
    subject: Subject, cluster: Cluster, client: KubeClient, namespace: str, tmp_path: Path
) -> None:
    """Prints tables; asserted is only that both sides made the same video, because times are this machine's."""
    jobs: list[Run[Done]] = []
    loops: dict[int, list[Run[Made]]] = {threads: [] for threads in BARE_THREADS}
    async with bench(subject, cluster, client, namespace, tmp_path) as both:
        for take in range(RUNS + 1):
            prompt = f"A red fox trots through fresh snow, take {take}."  # A new one, which nobody has cached.
            for threads in BARE_THREADS:
                order = Order(prompt, take, threads)
                loops[threads].append(await both.measured(partial(both.bare.make, order)))
            job = await both.measured(partial(both.through_system, f"take-{take}", prompt, take))
            jobs.append(job)
            assert {job.made.frames, *(runs[-1].made.frames for runs in loops.values())} == {
                subject.frames * subject.shots
            }
            if both.triton_threads in loops:  # Then the arithmetic is the same, to the last bit.
                assert job.made.sha256 == loops[both.triton_threads][-1].made.sha256
    units, pieces = len(subject.plan.units), len(subject.plan.pieces)
    print(
        f"\n\nData plane, {subject.name}: {units} units in {pieces} pieces, {subject.frames} frames a shot of", end=" "
    )
    print(f"{subject.width}x{subject.height}, {subject.steps} steps, float32, {RUNS} runs.")
    print("  Both sides start from the same noise. The system runs whole, and idle while the bare loop works.\n")
    # The first take of each warmed it up.
    table(subject, both.triton_threads, jobs[1:], {threads: runs[1:] for threads, runs in loops.items()})


@dataclass
class Bench:
    """Both sides, running."""

    subject: Subject
    system: System
    bare: BareLoop
    triton_threads: int
    """CPU threads of each stage, as the runner has configured Triton."""

    async def through_system(self, name: str, prompt: str, seed: int) -> Done:
        """Make a video with the system."""
        spec = {**self.subject.job(prompt), "model": MODEL, "seed": seed}
        return await make_video(self.system, name, self.subject, **spec)

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
async def bench(
    subject: Subject, cluster: Cluster, client: KubeClient, namespace: str, folder: Path
) -> AsyncIterator[Bench]:
    """The whole system with one replica, and the bare loop; both have loaded the model."""
    async with one_model(subject, cluster, client, namespace, folder) as system:
        model, repository = folder / "model", system.replicas[REPLICA].folder / "repository"
        async with bare_loop(subject.name, model, folder / "bare", folder / "bare.log") as bare:
            yield Bench(subject, system, bare, threads_of(repository))


def threads_of(repository: Path) -> int:
    """CPU threads of a stage in a rendered Triton repository."""
    config = text_format.Parse(
        (repository / f"{MODEL}.denoiser" / "config.pbtxt").read_text(), model_config_pb2.ModelConfig()
    )
    return int(config.parameters["threads"].string_value)
