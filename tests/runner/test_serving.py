"""Models on a real Triton: loaded, found again, lost, replaced, and what is reported when they do not load."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from tests.runner.fakes import fresh
from tests.triton.conftest import MODEL, MODEL_REPO
from tests.triton.server import Server
from videojob.api.meta import ObjectMeta
from videojob.api.replica import LoadedModel, ModelState
from videojob.api.videomodel import Memory, Precision, Source, VideoModel, VideoModelSpec
from videojob.families import FamilyName
from videojob.runner.clock import Clock
from videojob.runner.loader import Loader
from videojob.runner.metrics import RunnerMetrics
from videojob.runner.serving import Serving
from videojob.runner.triton import Triton, TritonGoneError
from videojob.triton.digest import Weights, weights_digest
from videojob.triton.settings import ReplicaSettings

PATIENCE = 240.0
ENSEMBLE = "served.video_chunk"


def model(directory: Path, uid: str = "one", name: str = "served", **spec: object) -> VideoModel:
    return VideoModel(
        metadata=ObjectMeta(name=name, uid=uid),
        spec=VideoModelSpec(
            family=FamilyName.ANYFLOW_FAR,
            precision=Precision.FLOAT32,
            memory=Memory(weights_bytes=10, per_job_bytes=1),
            **({"source": Source(directory=str(directory))} | spec),  # type: ignore[arg-type]
        ),
    )


def rendered(server: Server) -> bool:
    return (server.repository / ENSEMBLE).exists()


def loading(triton: Triton, metrics: RunnerMetrics, repository: Path, control_dir: Path) -> Loader:
    """What loads models from there."""
    return Loader(
        triton,
        Clock(),
        metrics,
        model_repository=MODEL_REPO,
        repository=repository,
        device="cpu",
        replica=ReplicaSettings(str(control_dir)),
        permission=fresh(),
    )


class Watched:
    """Serving, and a way to wait for what it reports."""

    def __init__(self, triton: Triton, server: Server, control_dir: Path, memory_bytes: int = 0) -> None:
        self._changed = asyncio.Event()
        self.registry = CollectorRegistry()
        metrics = RunnerMetrics(self.registry, "p", "r")
        loader = loading(triton, metrics, server.repository, control_dir)
        self.serving = Serving(triton, loader, Clock(), metrics, memory_bytes=memory_bytes, changed=self._changed.set)

    def loads(self, name: str, result: str) -> float | None:
        """How often the model was loaded, or was not."""
        labels = {"pool": "p", "replica": "r", "model": name, "result": result}
        return self.registry.get_sample_value("videojob_runner_model_loads_total", labels)

    async def until_states(self, **states: ModelState) -> tuple[LoadedModel, ...]:
        """Wait until the models are so."""
        async with asyncio.timeout(PATIENCE):
            while True:
                self._changed.clear()
                reported = self.serving.report()
                if {each.name: each.state for each in reported} == states:
                    return reported
                await self._changed.wait()

    async def until(self, state: ModelState, holds: Callable[[LoadedModel], bool] = lambda model: True) -> LoadedModel:
        async with asyncio.timeout(PATIENCE):
            while True:
                self._changed.clear()
                (reported,) = self.serving.report()
                if reported.state is state and holds(reported):
                    return reported
                await self._changed.wait()


@pytest.fixture
async def make(
    triton: Triton, server: Server, control_dir: Path
) -> AsyncIterator[Callable[..., AbstractAsyncContextManager[Watched]]]:
    @asynccontextmanager
    async def serving(memory_bytes: int = 0) -> AsyncIterator[Watched]:
        watched = Watched(triton, server, control_dir, memory_bytes)
        looking = asyncio.create_task(watched.serving.run())
        try:
            yield watched
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            await watched.serving.close()

    yield serving
    await triton.unload(ENSEMBLE)


@pytest.mark.timeout(900)
async def test_a_model_from_its_first_failure_to_its_end(
    make: Callable[..., AbstractAsyncContextManager[Watched]],
    triton: Triton,
    server: Server,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One test, because each load takes seconds: fails, heals, is found again, is lost, changes, is dropped."""
    loaded: list[str] = []
    load = Triton.load

    async def counted(self: Triton, name: str) -> None:
        loaded.append(name)
        await load(self, name)

    monkeypatch.setattr(Triton, "load", counted)
    directory = tmp_path / "model"
    async with make() as first:
        first.serving.want({"served": model(directory)})
        failed = await first.until(ModelState.FAILED)
        assert str(directory) in failed.message
        with pytest.raises(Exception, match=str(directory)):
            await first.serving.take("served", 0.01)

        shutil.copytree(tiny_model, directory)
        ready = await first.until(ModelState.READY)
        assert (ready.uid, ready.message) == ("one", "")
        assert ready.digest == weights_digest(Weights(tiny_model))
        assert (await first.serving.take("served", PATIENCE)).digest == ready.digest
        assert first.loads("served", "loaded") == 1
        assert (first.loads("served", "failed") or 0) >= 1
    assert loaded == [ENSEMBLE]

    async with make() as second:
        second.serving.want({"served": model(directory)})
        await second.until(ModelState.READY)
        assert loaded == [ENSEMBLE], "a runner that was restarted loaded the model again"

        await triton.unload(ENSEMBLE)  # As a restart of the server does.
        await second.until(ModelState.LOADING)
        await second.until(ModelState.READY)
        assert loaded == [ENSEMBLE] * 2

        second.serving.want({"served": model(directory, uid="two", sink_latents=0)})
        await second.until(ModelState.READY, lambda reported: reported.uid == "two")
        assert loaded == [ENSEMBLE] * 3, "a VideoModel that was made anew, and differs, was not loaded"

        second.serving.want({})
        assert second.serving.report() == ()
        async with asyncio.timeout(PATIENCE):
            while await triton.model_ready(ENSEMBLE) or rendered(server):  # noqa: ASYNC110 - nothing notifies
                await asyncio.sleep(0.05)
    assert await triton.model_ready(f"{MODEL}.video_chunk"), "another model was unloaded as well"


@pytest.mark.timeout(900)
async def test_two_models_where_there_is_memory_for_one(
    make: Callable[..., AbstractAsyncContextManager[Watched]], triton: Triton, tiny_model: Path, tmp_path: Path
) -> None:
    """Each is loaded when a job comes for it, and only once the other one is gone."""
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    models = {"left": model(tiny_model, "l", "left"), "right": model(other, "r", "right")}
    both: list[set[str]] = []

    async def look() -> None:
        while True:
            with suppress(TritonGoneError):  # It may be too busy to answer in time.
                ensembles = {"left.video_chunk", "right.video_chunk"} & await triton.present()
                if ensembles not in both:
                    both.append(ensembles)
            await asyncio.sleep(0.02)

    looking = asyncio.create_task(look())
    async with make(memory_bytes=12) as watched:
        serving = watched.serving
        serving.want(models)
        reported = await watched.until_states(left=ModelState.READY, right=ModelState.UNLOADED)
        assert [each.digest for each in reported] == [weights_digest(Weights(tiny_model)), ""]

        left = await serving.take("left", PATIENCE)
        with pytest.raises(Exception, match="jobs that run take the memory"):
            await serving.take("right", 0.1)
        serving.want(models)  # As after any change of the pool.
        await watched.until_states(left=ModelState.READY, right=ModelState.UNLOADED)

        waiting = asyncio.create_task(serving.take("right", PATIENCE))
        await asyncio.sleep(0)
        serving.give_back(left)
        right = await waiting
        await watched.until_states(left=ModelState.UNLOADED, right=ModelState.READY)
        serving.give_back(right)

        serving.give_back(await serving.take("left", PATIENCE))
        await watched.until_states(left=ModelState.READY, right=ModelState.UNLOADED)
        assert (watched.loads("left", "loaded"), watched.loads("right", "loaded")) == (2, 1)

    # A runner that starts does not know what the one before has loaded: it makes room before it loads.
    async with make(memory_bytes=12) as again:
        again.serving.want(dict(reversed(models.items())))
        await again.until_states(left=ModelState.UNLOADED, right=ModelState.READY)
        again.serving.want({})
        async with asyncio.timeout(PATIENCE):
            while await triton.model_ready("right.video_chunk"):  # noqa: ASYNC110 - nothing notifies
                await asyncio.sleep(0.05)
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    assert {"left.video_chunk"} in both and {"right.video_chunk"} in both
    assert {"left.video_chunk", "right.video_chunk"} not in both, "both were on the accelerator at once"


async def test_a_server_that_does_not_answer_is_reported() -> None:
    changed = asyncio.Event()
    triton = Triton("127.0.0.1:1")
    metrics = RunnerMetrics(CollectorRegistry(), "p", "r")
    loader = loading(triton, metrics, Path("unused"), Path("unused"))
    serving = Serving(triton, loader, Clock(), metrics, memory_bytes=0, changed=changed.set)
    looking = asyncio.create_task(serving.run())

    await asyncio.wait_for(changed.wait(), PATIENCE)

    assert "Triton at 127.0.0.1:1 does not answer" in serving.error
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    await triton.close()
