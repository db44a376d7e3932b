"""A unit that is paused between two of its steps, and goes on from there in another process with the same bytes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from dev.tiny_model import SIZES, make_model
from videojob.families import FAMILIES, Chunking, FamilyName, Shot, Unit, Video
from videojob.models.family import Conditioning, Generator, family_module
from videojob.models.parts import Parts
from videojob.models.stages import DenoiseStage, Made, Turn
from videojob.models.tensors import Tensors, pack, unpack
from videojob.triton.contract import ChunkError, ErrorCode, Mark
from videojob.triton.sequences import Sequences
from videojob.triton.wire import Settings, UnitRequest

CPU = torch.device("cpu")
STEPS = 4
SETTINGS = Settings("a cat", seed=7, width=32, height=32, fps=16.0, guidance_scale=4.0, negative_prompt="blurred")
KINDS = {
    FamilyName.ANYFLOW_FAR: "anyflow-far",
    FamilyName.HELIOS: "helios",
    FamilyName.LTX: "ltx-timestep",
    FamilyName.SKYREELS_V2_DIFFUSION_FORCING: "skyreels-v2-df",
    FamilyName.WAN: "wan-a14b",
    FamilyName.WAN_VACE: "wan-vace-a14b",
}
FRAMES = {
    FamilyName.ANYFLOW_FAR: 40,
    FamilyName.HELIOS: 40,
    FamilyName.LTX: 9,
    FamilyName.SKYREELS_V2_DIFFUSION_FORCING: 40,
    FamilyName.WAN: 9,
    FamilyName.WAN_VACE: 9,
}

pytestmark = pytest.mark.usefixtures("one_thread")


class Asks:
    """Asks to stop with its nth question: the first is before the unit, the second before its first step."""

    def __init__(self, mark: Mark = Mark.PAUSE, question: int = 1_000) -> None:
        self._mark = mark
        self._left = question

    @classmethod
    def after(cls, steps: int, mark: Mark = Mark.PAUSE) -> "Asks":
        """Once so many steps are made in this call."""
        return cls(mark, 2 + steps)

    def __call__(self) -> Mark | None:
        self._left -= 1
        return self._mark if self._left <= 0 else None


@dataclass(frozen=True)
class Family:
    """A generator, and the last unit of a short video with what it needs."""

    generator: Generator
    conditions: Tensors
    unit: Unit
    past: Sequence[Tensors]

    def stage(self) -> DenoiseStage:
        """As in a process that has just started."""
        return DenoiseStage(self.generator, Sequences(4, 60.0, lambda: 0.0))

    def make(self, asks: Asks, partial: Made | None = None, stage: DenoiseStage | None = None) -> Made:
        """The unit, gone on with where it was paused: from bytes, as another process has them."""
        given = None if partial is None else unpack(pack(partial.tensors), "PARTIAL")
        wanted = UnitRequest(self.unit, SETTINGS, self.unit.needs, resume=partial.step if partial else None)
        turn = Turn("job-1", start=True, end=False, past=self.past, partial=given)
        return (stage or self.stage()).make(turn, wanted, self.conditions, asks)


def checkpoints(generator: Generator, conditions: Tensors, units: Sequence[Unit]) -> Iterator[Tensors]:
    stage = DenoiseStage(generator, Sequences(4, 60.0, lambda: 0.0))
    for unit in units:
        turn = Turn("job-1", start=unit.index == 0, end=False)
        yield stage.make(turn, UnitRequest(unit, SETTINGS), conditions, Asks()).tensors


@pytest.fixture(
    scope="module",
    params=[(name, dtype) for name in KINDS for dtype in (torch.float32, torch.bfloat16)],
    ids=lambda param: f"{param[0]}-{str(param[1])[6:]}",
)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    name, dtype = request.param
    folder: Path = tmp_path_factory.mktemp("models") / "tiny"
    make_model(folder, SIZES["tiny"], KINDS[name])
    parts = family_module(name)
    generator = parts.Generator(Parts(folder, CPU, dtype))
    conditions = parts.Conditioner(Parts(folder, CPU, dtype)).encode(Conditioning("a cat", "blurred"))
    plan = FAMILIES[name].plan(Chunking(first=1, later=3, sink=1, window=6), Video((Shot(FRAMES[name]),), 16, STEPS))
    unit = plan.units[min(2, len(plan.units) - 1)]
    past = [*checkpoints(generator, conditions, plan.units[: unit.index])]
    return Family(generator, conditions, unit, [past[index] for index in unit.needs])


def test_a_unit_that_was_paused_after_any_of_its_steps_is_the_same(family: Family) -> None:
    whole = family.make(Asks())
    assert whole.step == STEPS
    for steps in range(1, STEPS):
        paused = family.make(Asks.after(steps))
        assert paused.step == steps
        rest = family.make(Asks(), paused)
        assert (rest.step, pack(rest.tensors)) == (STEPS, pack(whole.tensors))


def test_a_unit_may_be_paused_after_each_step(family: Family) -> None:
    made: Made | None = None
    steps = []
    while made is None or made.step != STEPS:
        made = family.make(Asks.after(1), made)
        steps.append(made.step)
    assert steps == list(range(1, STEPS + 1))
    assert pack(made.tensors) == pack(family.make(Asks()).tensors)


@pytest.mark.parametrize("paused", [0, 2], ids=["from the start", "where it goes on"])
def test_a_pause_before_a_step_is_made_gives_nothing(family: Family, paused: int) -> None:
    partial = family.make(Asks.after(paused)) if paused else None
    for question in (1, 2):
        with pytest.raises(ChunkError) as raised:
            family.make(Asks(Mark.PAUSE, question), partial)
        assert raised.value.reason is ErrorCode.CANCELLED


@pytest.mark.parametrize("steps", range(STEPS + 1))
def test_a_cancel_gives_nothing_whatever_is_made(family: Family, steps: int) -> None:
    with pytest.raises(ChunkError) as raised:
        family.make(Asks.after(steps, Mark.CANCEL))
    assert raised.value.reason is ErrorCode.CANCELLED


@pytest.mark.parametrize("steps", [1, STEPS])
def test_what_is_in_flight_behind_a_pause_is_refused(family: Family, steps: int) -> None:
    stage = family.stage()
    family.make(Asks.after(steps), stage=stage)
    following = UnitRequest(replace(family.unit, index=family.unit.index + 1), SETTINGS)
    with pytest.raises(ChunkError, match="nothing is known") as raised:
        stage.make(Turn("job-1", start=False, end=False), following, None, Asks())
    assert raised.value.reason is ErrorCode.OUT_OF_SEQUENCE


@pytest.mark.parametrize(
    ("resume", "brings", "start", "words"),
    [
        (0, True, True, "has 4 steps: it cannot go on after step 0"),
        (STEPS, True, True, "cannot go on after step 4"),
        (-1, True, True, "cannot go on after step -1"),
        (1, False, True, "come together, with the request that starts a sequence"),
        (None, True, True, "come together"),
        (1, True, False, "come together"),
    ],
    ids=["no step", "the last step", "below", "without PARTIAL", "without resume", "within a sequence"],
)
def test_what_makes_no_sense_to_go_on_from_is_refused(
    family: Family, resume: int | None, brings: bool, start: bool, words: str
) -> None:
    paused, stage = family.make(Asks.after(1)), family.stage()
    unit = family.unit
    if not start:
        family.make(Asks(), stage=stage)
        unit = replace(unit, index=unit.index + 1)
    past = family.past if start else ()
    turn = Turn("job-1", start, end=False, past=past, partial=paused.tensors if brings else None)
    wanted = UnitRequest(unit, SETTINGS, unit.needs if start else (), resume=resume)
    with pytest.raises(ChunkError, match=words) as raised:
        stage.make(turn, wanted, family.conditions, Asks())
    assert raised.value.reason is ErrorCode.INVALID_REQUEST
