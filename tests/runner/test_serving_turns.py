"""How models take turns on an accelerator, and reports on their weights: on a slow Triton, and one that refuses."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.controller.world import until
from tests.runner.fakes import Time
from tests.runner.slow_triton import PATIENCE, Replica, not_yet, stages, states
from tests.runner.test_serving import model
from videojob.api.replica import ModelState
from videojob.runner import kept as kept_module
from videojob.runner import loader as loader_module
from videojob.runner import served as served_module
from videojob.runner import serving as serving_module
from videojob.runner.serving import Serving
from videojob.runner.triton import TritonGoneError
from videojob.triton.contract import CONTROL_MODEL
from videojob.triton.progress import Progress


@pytest.fixture
def replica(tmp_path: Path) -> Replica:
    return Replica(tmp_path)


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
    monkeypatch.setattr(loader_module, "LONGEST_PAUSE", 0.1)
    monkeypatch.setattr(served_module, "FAILED_SECONDS", 1.0 if what == "time passes" else 3600.0)
    replica.triton.refused = {"b"}
    async with replica.runner() as serving:
        await failed_and_made_room(serving)

        if what == "other weights":
            replica.write("b", "smaller")
        if what == "another spec":
            changed = {"b": model(tmp_path / "b", uid="b", name="b", sink_latents=0)}
            serving.want({"a": model(tmp_path / "a", uid="a", name="a")} | changed)

        await states(serving, a=ModelState.READY, b=ModelState.UNLOADED)


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


async def test_a_stage_that_hangs_is_ended_before_its_model_is_unloaded(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for its answer any more. Once Triton was asked to drop it, its end would not be noticed."""
    monkeypatch.setattr(loader_module, "LOOK_SECONDS", 0.001)
    async with replica.runner() as serving:
        serving.give_back(await serving.take("a", PATIENCE))
        replica.triton.notes["a.denoiser"] = Progress(pid=7, began=1, count=3, size=100)

        assert (await serving.take("b", PATIENCE)).name == "b"

        assert replica.triton.loads == ["a", "a.denoiser", "b"]


async def test_a_model_is_unloaded_only_once_its_stages_work_on_nothing(replica: Replica) -> None:
    async with replica.runner() as serving:
        serving.give_back(await serving.take("a", PATIENCE))
        at_work = replica.triton.notes["a.denoiser"] = Progress(pid=7, began=1, count=3, size=100)
        job = asyncio.create_task(serving.take("b", PATIENCE))

        await not_yet(job)
        assert stages("a") <= replica.triton.present_models
        replica.triton.notes["a.denoiser"] = replace(at_work, count=4, size=0)

        assert (await job).name == "b"
        assert replica.triton.loads == ["a", "b"]


async def test_nobody_waits_for_the_stages_of_a_triton_that_was_killed_at_work(replica: Replica) -> None:
    async with replica.runner() as serving:
        serving.give_back(await serving.take("a", PATIENCE))
        replica.triton.notes["a.denoiser"] = Progress(pid=7, began=1, count=3, size=100)
        replica.triton.present_models.clear()

        assert (await serving.take("b", PATIENCE)).name == "b"


async def test_models_that_are_renewed_are_gone_before_they_are_loaded_anew(replica: Replica) -> None:
    """What is on a broken accelerator makes nothing any more; there is no memory for two of it."""
    async with replica.runner("a") as serving:
        serving.give_back(await serving.take("a", PATIENCE))
        replica.triton.may_unload.clear()

        serving.renew()
        waiting = asyncio.create_task(serving.take("a", PATIENCE))
        await not_yet(waiting)
        assert replica.triton.loads == ["a"]
        replica.triton.may_unload.set()

        await waiting
        assert replica.triton.loads == ["a", "a"]


async def test_a_model_whose_task_ends_is_not_left_as_it_was(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a defect that comes again and again: the process ends, and its restart may help."""

    def defect(*_: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(kept_module, "DEFECTS", 1)
    monkeypatch.setattr(serving_module, "next_action", defect)
    async with replica.runner("a") as serving, asyncio.timeout(PATIENCE):
        with pytest.raises(RuntimeError, match="a defect"):
            await serving.run()


async def test_a_job_that_waits_gets_the_reason(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_module, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(serving_module, "REPORT_WAIT_SECONDS", 0.2)
    reported: list[str] = []
    async with replica.runner() as serving:
        await states(serving, a=ModelState.READY, b=ModelState.UNLOADED)
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


async def test_the_control_model_of_another_release_is_loaded_anew(replica: Replica, tmp_path: Path) -> None:
    """As after an upgrade of a runner beside a Triton that goes on: it would not know what is asked of it."""
    loads = []
    for change in ("", "# of another release", ""):
        if change:
            (tmp_path / "repository" / CONTROL_MODEL / "1" / "model.py").write_text(change)
        async with replica.runner("a") as serving:
            await states(serving, a=ModelState.READY)
            loads.append(replica.triton.control_loads)

    assert loads == [1, 2, 2]
