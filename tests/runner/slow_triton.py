"""A Triton in memory that outlives runners, is slow and refuses, and a runner's `Serving` beside it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, cast

from prometheus_client import CollectorRegistry

from tests.controller.world import until
from tests.runner.fakes import fresh
from tests.runner.test_serving import model
from tests.triton.conftest import MODEL_REPO
from videojob.api.replica import ModelState
from videojob.runner.clock import Clock
from videojob.runner.loader import Loader
from videojob.runner.metrics import RunnerMetrics
from videojob.runner.patience import LONGEST_LOOK
from videojob.runner.serving import Serving
from videojob.runner.triton import Triton, TritonGoneError, TritonRefusedError
from videojob.runner.vigil import Vigil
from videojob.triton.contract import CONTROL_MODEL, STAGES, model_name
from videojob.triton.digest import Weights, weights_digest
from videojob.triton.progress import Progress
from videojob.triton.settings import ReplicaSettings

PATIENCE = 30.0
WEIGHTS = "vae/model.safetensors"
ROOM_FOR_ONE = 12
"""Bytes for a model, which takes ten, and two jobs of one byte each."""


class Memory:
    """A Triton that outlives runners. Its fields decide what it does."""

    def __init__(self) -> None:
        self.present_models: set[str] = set()
        self.claim_number = 0
        self.claimed = 0
        self.loads: list[str] = []
        self.control_loads = 0
        self.weights: dict[str, bytes] = {}
        """What was in the model's folder when it was loaded."""
        self.folders: dict[str, Path] = {}
        self.refused: set[str] = set()
        self.may_unload = asyncio.Event()
        self.may_unload.set()
        self.dead: set[str] = set()
        """Stages that have no process any more: Triton waits for ever for their end."""
        self.silent = 0
        """Questions for a model that it does not answer."""
        self.while_loading: Callable[[], None] = lambda: None
        self.notes: dict[str, Progress] = {}
        """Of stages, by their names here."""
        self.vigil = Vigil(self, count(0, LONGEST_LOOK).__next__)
        self._unloading: set[asyncio.Task[None]] = set()

    async def progress(self, stage: str) -> Progress | None:
        return self.notes.get(stage)

    async def end_stage(self, stage: str, seen: Progress) -> bool:
        self.dead.add(stage.partition(".")[2])
        return True

    async def check(self) -> None:
        """It answers."""

    async def claim(self) -> int | None:
        if self.claim_number < self.claimed:
            return self.claimed
        self.claimed = self.claim_number
        return None

    async def model_ready(self, name: str) -> bool:
        if self.silent:
            self.silent -= 1
            raise TritonGoneError("no answer")
        return name in self.present_models

    async def present(self) -> set[str]:
        return set(self.present_models)

    async def load(self, name: str) -> None:
        if name == CONTROL_MODEL:
            self.control_loads += 1
            self.present_models.add(name)
            return
        name, _, stage = name.partition(".")
        if stage != "video_chunk":
            self.dead.discard(stage)
            self.notes.pop(f"{name}.{stage}", None)
            self.loads.append(f"{name}.{stage}")
            return
        self.loads.append(name)
        if name in self.refused:
            raise TritonRefusedError("CUDA out of memory")
        self.weights[name] = (self.folders[name] / WEIGHTS).read_bytes()
        self.while_loading()
        self.present_models |= stages(name)

    async def unload(self, name: str) -> None:
        async def drop() -> None:
            if self.dead:
                return
            await self.may_unload.wait()
            self.present_models -= stages(name.partition(".")[0])

        self._unloading.add(asyncio.create_task(drop()))


def stages(name: str) -> set[str]:
    return {model_name(name, stage) for stage in STAGES}


class Replica:
    """One Triton, and the runners that come and go beside it, with models `a` to `j` to choose a pool's from."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.triton = Memory()
        self.permission = fresh()
        for name in "abcdefghij":
            self.triton.folders[name] = folder / name
            (folder / name / WEIGHTS).parent.mkdir(parents=True)
            (folder / name / "model_index.json").write_text('{"vae": ["diffusers", "AutoencoderKLWan"]}')
            self.write(name, name)

    def write(self, name: str, weights: str) -> None:
        """Put other weights into a model's folder."""
        (self._folder / name / WEIGHTS).write_text(weights)

    def digest(self, name: str) -> str:
        """Of what is in a model's folder."""
        return weights_digest(Weights(self._folder / name))

    @asynccontextmanager
    async def runner(self, names: Iterable[str] = "ab", memory_bytes: int = ROOM_FOR_ONE) -> AsyncIterator[Serving]:
        (self._folder / "repository").mkdir(exist_ok=True)
        triton, metrics = cast("Triton", self.triton), RunnerMetrics(CollectorRegistry(), "p", "r")
        loader = Loader(
            triton,
            Clock(),
            metrics,
            model_repository=MODEL_REPO,
            repository=self._folder / "repository",
            device="cpu",
            replica=ReplicaSettings(str(self._folder / "control")),
            permission=self.permission,
        )
        serving = Serving(triton, loader, Clock(), metrics, memory_bytes=memory_bytes, changed=lambda: None)
        serving.want({name: model(self._folder / name, uid=name, name=name) for name in names})
        try:
            yield serving
        finally:
            await serving.close()


async def states(serving: Serving, **wanted: ModelState) -> None:
    """Wait until the models are so."""

    async def look() -> bool | None:
        return {each.name: each.state for each in serving.report()} == wanted or None

    await until(look, f"the models are {wanted}", PATIENCE)


async def not_yet(waiting: "asyncio.Task[Any]") -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting), 0.3)
    assert not waiting.done(), "it did not wait"
