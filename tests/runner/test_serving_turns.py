"""How models take turns on an accelerator, and reports on their weights: on a slow Triton, and one that refuses."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from tests.controller.world import until
from tests.runner.fakes import Time, fresh
from tests.runner.test_serving import model
from tests.triton.conftest import MODEL_REPO
from videojob.api.replica import ModelState
from videojob.api.videomodel import Source
from videojob.runner import serving as serving_module
from videojob.runner.clock import Clock
from videojob.runner.metrics import RunnerMetrics
from videojob.runner.serving import Serving
from videojob.runner.triton import Triton, TritonGoneError, TritonRefusedError
from videojob.triton import digest as digest_module
from videojob.triton.contract import CONTROL_MODEL, STAGES, model_name
from videojob.triton.digest import weights_digest
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
        self._unloading: set[asyncio.Task[None]] = set()

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
            self.present_models.add(name)
            return
        name, _, stage = name.partition(".")
        if stage != "video_chunk":
            self.dead.discard(stage)
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
        return weights_digest(self._folder / name)

    @asynccontextmanager
    async def runner(self, names: Iterable[str] = "ab", memory_bytes: int = ROOM_FOR_ONE) -> AsyncIterator[Serving]:
        (self._folder / "repository").mkdir(exist_ok=True)
        serving = Serving(
            cast("Triton", self.triton),
            Clock(),
            RunnerMetrics(CollectorRegistry(), "p", "r"),
            model_repository=MODEL_REPO,
            repository=self._folder / "repository",
            device="cpu",
            replica=ReplicaSettings(str(self._folder / "control")),
            memory_bytes=memory_bytes,
            permission=self.permission,
            changed=lambda: None,
        )
        serving.want({name: model(self._folder / name, uid=name, name=name) for name in names})
        try:
            yield serving
        finally:
            await serving.close()


@pytest.fixture
def replica(tmp_path: Path) -> Replica:
    return Replica(tmp_path)


async def states(serving: Serving, **wanted: ModelState) -> None:
    """Wait until the models are so."""

    async def look() -> bool | None:
        return {each.name: each.state for each in serving.report()} == wanted or None

    await until(look, f"the models are {wanted}", PATIENCE)


async def not_yet(waiting: "asyncio.Task[Any]") -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting), 0.3)
    assert not waiting.done(), "it did not wait"


async def test_a_job_begins_only_once_what_makes_room_for_it_is_gone(replica: Replica) -> None:
    """A second job of a loaded model needs the memory of an idle one, which Triton takes its time to drop."""
    async with replica.runner(memory_bytes=22) as serving:
        await states(serving, a=ModelState.READY, b=ModelState.READY)
        replica.triton.may_unload.clear()
        jobs = [await serving.take("a", PATIENCE) for _ in range(2)]

        third = asyncio.create_task(serving.take("a", PATIENCE))
        await not_yet(third)
        assert stages("b") <= replica.triton.present_models, "b has left already: the test shows nothing"
        replica.triton.may_unload.set()
        jobs.append(await third)

        assert not stages("b") & replica.triton.present_models
        assert [job.name for job in jobs] == ["a"] * 3


async def test_a_job_gets_an_error_at_once_if_its_model_does_not_load(replica: Replica) -> None:
    """And what had made room for that model comes back."""
    replica.triton.refused = {"b"}
    async with replica.runner() as serving:
        await states(serving, a=ModelState.READY, b=ModelState.UNLOADED)

        with pytest.raises(TritonGoneError, match="The model b does not load: CUDA out of memory"):
            await serving.take("b", PATIENCE)

        await states(serving, a=ModelState.READY, b=ModelState.FAILED)
        assert (await serving.take("a", PATIENCE)).name == "a"


async def test_a_model_that_does_not_load_and_is_in_nobodys_way_is_tried_again(replica: Replica) -> None:
    replica.triton.refused = {"b"}
    async with replica.runner(memory_bytes=0) as serving:
        await states(serving, a=ModelState.READY, b=ModelState.FAILED)
        with pytest.raises(TritonGoneError):
            await serving.take("b", PATIENCE)

        replica.triton.refused = set()
        await states(serving, a=ModelState.READY, b=ModelState.READY)


async def failed_and_made_room(serving: Serving) -> None:
    """Have `b` not load, and then `a` take its place."""
    await states(serving, a=ModelState.READY, b=ModelState.UNLOADED)
    with pytest.raises(TritonGoneError):
        await serving.take("b", PATIENCE)
    await states(serving, a=ModelState.READY, b=ModelState.FAILED)


async def test_a_model_that_did_not_load_stays_failed_when_it_makes_room(replica: Replica) -> None:
    """Else jobs come for it again, and each throws the good model out for nothing."""
    replica.triton.refused = {"b"}
    async with replica.runner() as serving:
        await failed_and_made_room(serving)
        forgotten = asyncio.create_task(states(serving, a=ModelState.READY, b=ModelState.UNLOADED))
        await not_yet(forgotten)
        forgotten.cancel()

        await states(serving, a=ModelState.READY, b=ModelState.FAILED)
        assert [each.message for each in serving.report()] == ["", "CUDA out of memory"]
        before = len(replica.triton.loads)
        with pytest.raises(TritonGoneError, match="does not load"):
            await serving.take("b", PATIENCE)
        await states(serving, a=ModelState.READY, b=ModelState.FAILED)
        assert len(replica.triton.loads) == before, "a job of the failed model had something loaded"


@pytest.mark.parametrize("what", ["time passes", "other weights", "another spec"])
async def test_a_model_that_did_not_load_gets_another_chance(
    replica: Replica, what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(serving_module, "LONGEST_PAUSE", 0.1)
    monkeypatch.setattr(serving_module, "FAILED_SECONDS", 1.0 if what == "time passes" else 3600.0)
    replica.triton.refused = {"b"}
    async with replica.runner() as serving:
        await failed_and_made_room(serving)

        if what == "other weights":
            replica.write("b", "smaller")
        if what == "another spec":
            changed = {"b": model(tmp_path / "b", uid="b", name="b", sink_latents=0)}
            serving.want({"a": model(tmp_path / "a", uid="a", name="a")} | changed)

        await states(serving, a=ModelState.READY, b=ModelState.UNLOADED)


async def test_only_the_weights_of_models_that_are_loaded_are_read(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of ten models one fits: the other nine may have 40 GB each."""
    read: list[str] = []

    def counted(directory: Path, stopped: Callable[[], bool]) -> str:
        read.append(directory.name)
        return weights_digest(directory, stopped)

    monkeypatch.setattr(digest_module, "weights_digest", counted)
    async with replica.runner("abcdefghij") as serving:
        unloaded = dict.fromkeys("bcdefghij", ModelState.UNLOADED)
        await states(serving, a=ModelState.READY, **unloaded)
        assert read == ["a"]
        assert [each.digest for each in serving.report()] == [replica.digest("a")] + [""] * 9

        assert (await serving.take("b", PATIENCE)).digest == replica.digest("b")

        await states(serving, **(unloaded | {"a": ModelState.UNLOADED, "b": ModelState.READY}))
        assert read == ["a", "b"]
        assert [each.digest for each in serving.report()] == [replica.digest("a"), replica.digest("b")] + [""] * 8


async def test_a_declared_digest_is_known_before_the_weights_are_read(replica: Replica, tmp_path: Path) -> None:
    declared = replica.digest("b")
    async with replica.runner("a") as serving:
        source = Source(directory=str(tmp_path / "b"), digest=declared)
        models = {"a": model(tmp_path / "a", uid="a", name="a"), "b": model(tmp_path, uid="b", name="b", source=source)}
        serving.want(models)
        await states(serving, a=ModelState.READY, b=ModelState.UNLOADED)
        assert [each.digest for each in serving.report()] == [replica.digest("a"), declared]

        replica.write("b", "others")
        with pytest.raises(TritonGoneError, match=rf"digest {replica.digest('b')}; spec.source.digest is {declared}"):
            await serving.take("b", PATIENCE)

        await states(serving, a=ModelState.READY, b=ModelState.FAILED)
        assert serving.report()[1].digest == declared
        assert "b" not in replica.triton.loads


async def test_a_model_whose_folder_is_missing_fails_though_nobody_needs_it(replica: Replica, tmp_path: Path) -> None:
    (tmp_path / "b" / "model_index.json").unlink()
    async with replica.runner() as serving:
        await states(serving, a=ModelState.READY, b=ModelState.FAILED)
        assert "it has no model_index.json" in serving.report()[1].message


async def test_a_runner_that_starts_has_other_weights_loaded(replica: Replica) -> None:
    async with replica.runner("a") as first:
        assert (await first.take("a", PATIENCE)).digest == replica.digest("a")
    async with replica.runner("a") as second:
        await second.take("a", PATIENCE)
    assert replica.triton.loads == ["a"], "the same weights were loaded again"

    replica.write("a", "others")
    async with replica.runner("a") as third:
        assert (await third.take("a", PATIENCE)).digest == replica.digest("a")
    assert replica.triton.weights["a"] == b"others"


async def test_a_runner_that_dies_before_triton_has_let_go_leaves_nothing_wrong_behind(replica: Replica) -> None:
    async with replica.runner("a") as first:
        await first.take("a", PATIENCE)
    replica.write("a", "others")
    replica.triton.may_unload.clear()
    async with replica.runner("a") as second:
        await not_yet(asyncio.create_task(second.take("a", PATIENCE)))

    async with replica.runner("a") as third:
        waiting = asyncio.create_task(third.take("a", PATIENCE))
        await not_yet(waiting)
        replica.triton.may_unload.set()
        assert (await waiting).digest == replica.digest("a")
    assert replica.triton.weights["a"] == b"others"


async def test_a_triton_that_was_silent_for_a_moment_has_the_weights_that_it_had(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_module, "POLL_SECONDS", 0.05)
    async with replica.runner("a") as serving:
        loaded = (await serving.take("a", PATIENCE)).digest
        replica.write("a", "others")

        replica.triton.silent = 1
        await states(serving, a=ModelState.LOADING)
        await states(serving, a=ModelState.READY)

        assert [each.digest for each in serving.report()] == [loaded]
        assert replica.triton.loads == ["a"], "a job that runs has lost its model"


async def test_weights_that_change_while_they_are_loaded_are_loaded_again(replica: Replica) -> None:
    changes = ["second", "third"]
    replica.triton.while_loading = lambda: replica.write("a", changes.pop(0)) if changes else None
    async with replica.runner("a") as serving:
        assert (await serving.take("a", PATIENCE)).digest == replica.digest("a")
    assert replica.triton.weights["a"] == b"third"
    assert replica.triton.loads == ["a"] * 3


async def test_weights_that_never_stop_changing_are_reported(replica: Replica) -> None:
    replica.triton.while_loading = lambda: replica.write("a", f"load {len(replica.triton.loads)}")
    async with replica.runner("a") as serving:
        with pytest.raises(TritonGoneError, match="is written to while the model is loaded"):
            await serving.take("a", PATIENCE)


async def test_a_stage_without_a_process_is_loaded_anew_before_a_job_gets_its_model(replica: Replica) -> None:
    """Triton says that it is ready, and answers every request with an error."""
    async with replica.runner("a") as serving:
        serving.give_back(await serving.take("a", PATIENCE))
        replica.triton.dead = {"denoiser"}

        serving.repair("a", "a.denoiser")
        await serving.take("a", PATIENCE)

        assert replica.triton.loads == ["a", "a.denoiser"], "other stages were loaded a second time beside themselves"
        assert not replica.triton.dead


async def test_a_stage_without_a_process_keeps_no_other_model_from_its_memory(replica: Replica) -> None:
    async with replica.runner() as serving:
        serving.give_back(await serving.take("a", PATIENCE))
        replica.triton.dead = {"denoiser"}
        serving.repair("a", "a.denoiser")

        assert (await serving.take("b", PATIENCE)).name == "b"


async def test_a_job_that_waits_gets_the_reason(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_module, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(serving_module, "REPORT_WAIT_SECONDS", 0.2)
    reported: list[str] = []
    async with replica.runner() as serving:
        (await serving.take("a", PATIENCE, reported.append), await serving.take("a", PATIENCE, reported.append))
        assert reported == [], "a job that does not wait was given a reason"

        with pytest.raises(TritonGoneError):
            await serving.take("b", 1, reported.append)
        assert reported == ["jobs that run take the memory that it needs"]


async def test_a_job_whose_model_waits_for_an_unload_gets_that_reason(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_module, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(serving_module, "REPORT_WAIT_SECONDS", 0.2)
    reported: list[str] = []
    async with replica.runner() as serving:
        serving.give_back(await serving.take("a", PATIENCE))
        replica.triton.may_unload.clear()
        with pytest.raises(TritonGoneError, match=r"was not ready within 1 s: it is loading\."):
            await serving.take("b", 1, reported.append)
        assert reported == ["it is loading"]


async def test_no_model_is_loaded_or_unloaded_while_the_runner_is_cut_off(tmp_path: Path) -> None:
    """The server may be another runner's by then."""
    replica, time = Replica(tmp_path), Time()
    replica.permission = hold = time.hold()
    async with replica.runner() as serving:
        await until_true(lambda: replica.triton.loads == ["a"], "a is not loaded")
        await until_true(lambda: CONTROL_MODEL in replica.triton.present_models, "the control model is not loaded")
        time.seconds += 20
        replica.triton.present_models.clear()  # It was restarted.
        await until_true(lambda: dict_of(serving)["a"] is ModelState.LOADING, "the loss is not noticed")
        wanting = asyncio.create_task(serving.take("b", PATIENCE))
        for _ in range(100):
            await asyncio.sleep(0)
        assert replica.triton.loads == ["a"]

        hold.renew(time.seconds)
        serving.give_back(await wanting)
        assert "b" in replica.triton.loads[1:]


async def test_a_claim_that_is_in_the_way_is_raised_above_only_once_the_lease_is_certain(tmp_path: Path) -> None:
    """It may be that of a newer runner, of which this one has not learned yet."""
    replica, time = Replica(tmp_path), Time()
    replica.permission = hold = time.hold()
    replica.triton.claimed = 7
    async with replica.runner():
        await until_true(lambda: CONTROL_MODEL in replica.triton.present_models, "the control model is not loaded")
        for _ in range(100):
            await asyncio.sleep(0)
        assert replica.triton.claimed == 7

        time.seconds += 5
        hold.renew(time.seconds)
        await until_true(lambda: replica.triton.claimed == 8, "the claim is not made")


def dict_of(serving: Serving) -> dict[str, ModelState]:
    return {each.name: each.state for each in serving.report()}


async def until_true(holds: Callable[[], bool], what: str) -> None:
    async def look() -> bool | None:
        return holds() or None

    await until(look, what, PATIENCE)
