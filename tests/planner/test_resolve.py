"""What is made for a job: sizes, shots and seeds, as its status has them from the first assignment on."""

import pytest

from tests.planner.builders import RESOLVED, book, job, model
from tests.planner.deciding import brief, decided
from videojob.api.drift import DriftPolicy, DriftThresholds
from videojob.api.reasons import Reason
from videojob.api.shots import ResolvedShot
from videojob.api.videomodel import Adapter, Images, Use
from videojob.families import FamilyName, Memory
from videojob.planner.decisions import Assign, Wait
from videojob.planner.facts import ReplicaKey, WantedShot
from videojob.planner.resolve import resolve

KEEP, REFRESH, CLEAR = Memory.KEEP, Memory.REFRESH, Memory.CLEAR
WAN = model(family=FamilyName.WAN)


def test_a_job_that_starts_gets_everything_resolved() -> None:
    (decision,) = decided(book(job(fps=10, seconds=2.26, width=64)))
    shots = (ResolvedShot(frames=23, chunks=3, memory=CLEAR),)
    assert isinstance(decision, Assign)
    assert brief(decision) == (
        "Assign",
        ReplicaKey("p", "r0"),
        RESOLVED.model_copy(update={"fps": 10, "frames": 23, "width": 64, "chunks": 3, "shots": shots}),
        "file:///store/team/uid-a",
    )


@pytest.mark.parametrize(
    ("family", "shots", "made"),
    [
        pytest.param(
            FamilyName.ANYFLOW_FAR,
            (WantedShot(1.25), WantedShot(1.25, None, 3)),
            [(25, 3, CLEAR, None), (15, 2, KEEP, 3)],
            id="a family that can keeps, and the cut is where a chunk ends",
        ),
        pytest.param(
            FamilyName.ANYFLOW_FAR,
            (WantedShot(1.25), WantedShot(1.25, REFRESH), WantedShot(1.25, CLEAR)),
            [(20, 3, CLEAR, None), (20, 2, REFRESH, None), (20, 3, CLEAR, None)],
            id="what is asked for is what is made",
        ),
        pytest.param(
            FamilyName.WAN,
            (WantedShot(1.25, CLEAR), WantedShot(1.25)),
            [(20, 2, CLEAR, None), (20, 2, CLEAR, None)],
            id="one that cannot begins anew",
        ),
    ],
)
def test_shots_are_resolved(
    family: FamilyName, shots: tuple[WantedShot, ...], made: list[tuple[int, int, Memory, int | None]]
) -> None:
    resolved = resolve(job(shots=shots), model(family=family), "sha256:aa")
    assert [(shot.frames, shot.chunks, shot.memory, shot.seed) for shot in resolved.shots] == made
    assert (resolved.frames, resolved.chunks) == (sum(each[0] for each in made), sum(each[1] for each in made))
    plan = model(family=family).spec.plan(resolved.video)
    assert [len(span.frames) for span in plan.shots] == [shot.frames for shot in resolved.shots]
    assert [len(span.pieces) for span in plan.shots] == [shot.chunks for shot in resolved.shots]


@pytest.mark.parametrize("memory", [KEEP, REFRESH])
def test_a_memory_that_the_family_does_not_have_is_refused(memory: Memory) -> None:
    shots = (WantedShot(1.0), WantedShot(1.0), WantedShot(1.0, memory))
    (decision,) = decided(book(job(shots=shots), models=[WAN]))
    assert isinstance(decision, Wait) and decision.reason is Reason.MEMORY_UNSUPPORTED
    assert decision.message == (
        f"shots[2].memory is {memory}, and VideoModel tiny can do Clear only, as all of the family Wan. "
        "Create the job again with that, or leave memory out."
    )


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ((), None),
        (("ink",), None),
        (("film", "ink"), None),
        (("oil",), "has no adapter oil. It has ink, film."),
        (("ink", "oil", "chalk"), "has no adapter oil, chalk. It has ink, film."),
    ],
)
def test_an_adapter_is_one_of_the_models(wanted: tuple[str, ...], words: str | None) -> None:
    adapters = tuple(Adapter(name=name, directory="/adapters") for name in ("ink", "film"))
    (decision,) = decided(book(job(adapters=wanted), models=[model(family=FamilyName.WAN, adapters=adapters)]))
    if words is None:
        assert isinstance(decision, Assign)
    else:
        assert isinstance(decision, Wait) and decision.reason is Reason.ADAPTER_NOT_FOUND
        assert decision.message == f"VideoModel tiny {words}"


REQUIRED, OPTIONAL = Use.REQUIRED, Use.OPTIONAL
TAKES_NO_IMAGE = (Reason.IMAGE_UNSUPPORTED, "takes no image. Create the job again without shots[1].image,")
TAKES_NO_LAST = (Reason.IMAGE_UNSUPPORTED, "takes no lastImage. Create the job again without shots[1].lastImage,")
NEEDS_IMAGE = (Reason.IMAGE_MISSING, "needs image of each shot. Create the job again with shots[1].image.")
NEEDS_LAST = (Reason.IMAGE_MISSING, "needs lastImage of each shot. Create the job again with shots[1].lastImage.")


@pytest.mark.parametrize(
    ("taken", "refusals"),
    [
        (None, (None, TAKES_NO_IMAGE, TAKES_NO_IMAGE)),
        (Images(first=OPTIONAL), (None, None, TAKES_NO_LAST)),
        (Images(first=REQUIRED), (NEEDS_IMAGE, None, TAKES_NO_LAST)),
        (Images(first=OPTIONAL, last=OPTIONAL), (None, None, None)),
        (Images(first=REQUIRED, last=OPTIONAL), (NEEDS_IMAGE, None, None)),
        (Images(first=REQUIRED, last=REQUIRED), (NEEDS_IMAGE, NEEDS_LAST, None)),
    ],
    ids=str,
)
def test_images_are_those_that_the_model_takes(
    taken: Images | None, refusals: tuple[tuple[Reason, str] | None, ...]
) -> None:
    """For a shot with none, with the first and with both; the shot before has what the model needs."""
    fitting = 0 if taken is None else 1 + (taken.last is REQUIRED)
    for count, refused in enumerate(refusals):
        shots = (WantedShot(1.0, images=fitting), WantedShot(1.0, images=count))
        (decision,) = decided(book(job(shots=shots), models=[model(family=FamilyName.WAN, images=taken)]))
        if refused is None:
            assert isinstance(decision, Assign)
        else:
            assert isinstance(decision, Wait)
            assert decision.reason is refused[0]
            assert refused[1] in decision.message


GOES_ON = "shots[1] goes on from the shot before it, so there is no place for its image."


@pytest.mark.parametrize("first", Use)
@pytest.mark.parametrize(("memory", "refused"), [(None, True), (Memory.KEEP, True), (Memory.CLEAR, False)])
def test_a_shot_that_goes_on_has_no_image(first: Use, memory: Memory | None, refused: bool) -> None:
    """It begins with what the shot before it ends with; so it needs none either where others do."""
    able = model(family=FamilyName.SKYREELS_V2_DIFFUSION_FORCING, images=Images(first=first))

    def decision(images: int) -> object:
        shots = (WantedShot(1.0, images=1), WantedShot(1.0, memory, images=images))
        (made,) = decided(book(job(shots=shots), models=[able]))
        return made

    given, missing = decision(1), decision(0)
    if refused:
        assert isinstance(given, Wait)
        assert given.reason is Reason.IMAGE_UNSUPPORTED
        assert GOES_ON in given.message
        assert "with shots[1].memory: Clear" in given.message
        assert isinstance(missing, Assign)
    else:
        assert isinstance(given, Assign)
        assert isinstance(missing, Wait) == (first is Use.REQUIRED)


MOTION = DriftThresholds(motion=0.5)


@pytest.mark.parametrize(
    ("policy", "family", "thresholds", "words"),
    [
        (DriftPolicy.REPORT, FamilyName.WAN, None, None),
        (DriftPolicy.STOP, FamilyName.WAN, MOTION, None),
        (DriftPolicy.REFRESH, FamilyName.ANYFLOW_FAR, MOTION, None),
        (DriftPolicy.REFRESH, FamilyName.ANYFLOW_FAR, None, "VideoModel tiny has no drift to judge by"),
        (DriftPolicy.REFRESH, FamilyName.WAN, MOTION, "models of the family Wan keep nothing of the beginning"),
        (
            DriftPolicy.STOP,
            FamilyName.ANYFLOW_FAR,
            None,
            "VideoModel tiny has no drift to judge by: set",
        ),
    ],
)
def test_drift_is_acted_on_where_the_model_can(
    policy: DriftPolicy, family: FamilyName, thresholds: DriftThresholds | None, words: str | None
) -> None:
    (decision,) = decided(book(job(drift_policy=policy), models=[model(family=family, drift=thresholds)]))
    if words is None:
        assert isinstance(decision, Assign)
        assert decision.resolved.drift == thresholds
    else:
        assert isinstance(decision, Wait) and decision.reason is Reason.DRIFT_POLICY_UNSUPPORTED
        assert decision.message.startswith(f"driftPolicy is {policy}, and {words}")
        assert decision.message.endswith("Or create the job again with another driftPolicy.")


def test_all_shots_together_are_as_long_as_the_model_allows() -> None:
    within, beyond = (job(shots=(WantedShot(length),) * 8) for length in (7.5, 7.6))
    assert isinstance(decided(book(within))[0], Assign)
    (decision,) = decided(book(beyond))
    assert isinstance(decision, Wait) and decision.reason is Reason.EXCEEDS_MODEL_LIMITS
    assert decision.message == "VideoModel tiny does not allow this: seconds 60.8 is more than 60."


def test_the_shot_that_is_too_long_is_named() -> None:
    shots = (WantedShot(5.0), WantedShot(5.5))
    (decision,) = decided(book(job(shots=shots), models=[model(limits={"max_frames": 81})]))
    assert isinstance(decision, Wait)
    assert "5.5 s of shots[1] at 16 fps are 88 frames, and a shot has at most 81" in decision.message


def test_what_was_resolved_before_there_were_several_shots_is_one() -> None:
    assert RESOLVED.shots == ()
    assert [shot.frames for shot in RESOLVED.video.shots] == [RESOLVED.frames]
