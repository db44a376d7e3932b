"""Which weights a runner reads and Triton loads, when they change, and what is reported of them."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runner.slow_triton import PATIENCE, Replica, not_yet, states
from tests.runner.test_serving import model
from videojob.api.replica import ModelState
from videojob.api.videomodel import Source
from videojob.runner import loader as loader_module
from videojob.runner.triton import TritonGoneError
from videojob.triton import digest as digest_module
from videojob.triton.digest import Weights, weights_digest


@pytest.fixture
def replica(tmp_path: Path) -> Replica:
    return Replica(tmp_path)


async def test_only_the_weights_of_models_that_are_loaded_are_read(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of ten models one fits: the other nine may have 40 GB each."""
    read: list[str] = []

    def counted(weights: Weights, stopped: Callable[[], bool]) -> str:
        read.append(weights.directory.name)
        return weights_digest(weights, stopped)

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
    monkeypatch.setattr(loader_module, "LOOK_SECONDS", 0.05)
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
