"""The whole system with one replica, which serves one model of a subject as large as benchmarks need."""

import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from dev.control_plane import Cluster
from dev.supervisor import REPOSITORY
from tests.bench.subjects import Subject
from tests.e2e.system import MODEL as TINY
from tests.e2e.system import System
from videojob.kube.client import GPU_POOLS, VIDEO_MODELS, KubeClient

MODEL = "bench"
REPLICA = "r0"


@asynccontextmanager
async def one_model(
    subject: Subject, cluster: Cluster, client: KubeClient, namespace: str, folder: Path, size: str = "bench"
) -> AsyncIterator[System]:
    """The system, once it has loaded the model, which lies in `folder`/model."""
    model = make_model(folder, subject.kind, size)
    system = System(cluster, client, folder, namespace, model, pool=f"bench-{subject.kind}")
    try:
        system.install(REPLICA)
        replica = system.replicas[REPLICA]
        # The models as they are, without the faults that tests put into them.
        shutil.copytree(REPOSITORY / "model_repo", replica.folder / "model_repo", dirs_exist_ok=True)
        cluster.apply(video_model(subject, model))
        await client.merge_patch(GPU_POOLS, system.pool, {"spec": {"models": [MODEL]}})
        system.start(REPLICA)
        await system.ready(REPLICA)
        yield system
    finally:
        system.stop()
        for name in (TINY, MODEL):  # The next one's lie elsewhere, which no VideoModel may change.
            await client.delete(VIDEO_MODELS, name)


def make_model(folder: Path, kind: str, size: str) -> Path:
    """The benchmark's model, made by a process of its own: this one stays without torch."""
    directory = folder / "model"
    command = [sys.executable, "-m", "dev.tiny_model", str(directory), "--size", size, "--kind", kind]
    with (folder / "model.log").open("wb") as log:
        subprocess.run(command, cwd=REPOSITORY, stdout=log, stderr=log, timeout=300, check=True)
    return directory


def video_model(subject: Subject, directory: Path) -> dict[str, Any]:
    """The VideoModel."""
    chunking = subject.chunking
    return {
        "apiVersion": "videojob.dev/v1alpha1",
        "kind": "VideoModel",
        "metadata": {"name": MODEL},
        "spec": {
            "family": subject.family,
            "source": {"directory": str(directory)},
            "precision": "float32",
            "chunk": {"firstLatents": chunking.first, "latents": chunking.later},
            "sinkLatents": chunking.sink,
            "windowLatents": chunking.window,
            "memory": {"weightsBytes": 1, "perJobBytes": 1},
            "limits": {"maxWidth": 256, "maxHeight": 256, "maxSeconds": 600},
            "defaults": {"width": subject.width, "height": subject.height, "fps": subject.fps, "steps": subject.steps},
        },
    }
