"""Drift of a video: what its pieces are compared with, what is shown of it, and when it goes too far."""

from collections.abc import Sequence

import numpy as np
import pytest

from tests.media.pictures import Frames, moving_picture
from tests.planner.builders import RESOLVED
from videojob.api.drift import SIGNALS, DriftPolicy, DriftStatus, DriftThresholds
from videojob.api.shots import ResolvedShot
from videojob.api.videojob import Resolved
from videojob.families import Memory
from videojob.media import Look, look
from videojob.runner.drifting import DriftedError, Drifting, Reference, look_of, look_record, passed
from videojob.store import PieceRecord, StoredObject, UnitRecord

PICTURE = moving_picture(4)
SEGMENT = StoredObject(key="attempts/1/0.mp4", sha256="0" * 64, size_bytes=1)


def video(*chunks: int, drift: DriftThresholds | None = None) -> Resolved:
    """Of shots with so many chunks each, of 4 frames, at 16 fps."""
    shots = tuple(ResolvedShot(frames=4 * each, chunks=each, memory=Memory.KEEP) for each in chunks)
    return RESOLVED.model_copy(update={"shots": shots, "drift": drift})


def records(pieces: Sequence[Frames | None]) -> list[PieceRecord]:
    """What is in the log of pieces of these frames; None has been made by an earlier version."""
    return [
        PieceRecord(
            index=index,
            attempt=1,
            frames=4 if frames is None else len(frames),
            segment=SEGMENT,
            look=None if frames is None else look_record(look(frames)),
            units={index: "0" * 64},
            stage_seconds={},
        )
        for index, frames in enumerate(pieces)
    ]


def seen(resolved: Resolved, *pieces: Frames | None, policy: DriftPolicy = DriftPolicy.REPORT) -> Drifting:
    drifting = Drifting(resolved, policy)
    for record in records(pieces):
        drifting.see(record)
    return drifting


def shade(frames: Frames, by: int) -> Frames:
    return np.clip(frames.astype(int) + by, 0, 255).astype(np.uint8)


def peak(drifting: Drifting, signal: str) -> tuple[float, int, float]:
    found = getattr(drifting.status, signal)
    return found.value, found.shot, found.second


def test_a_look_is_in_the_record_of_its_piece_as_it_was_seen() -> None:
    for frames in (PICTURE, PICTURE[:1]):
        (record,) = records([frames])
        assert record.look is not None
        again = PieceRecord.model_validate_json(record.model_dump_json())
        assert again == record
        assert again.look is not None and look_of(again.look) == look(frames)


def test_nothing_is_shown_before_there_is_something_to_compare() -> None:
    assert seen(video(3)).status is None
    assert seen(video(3), PICTURE).status is None
    assert seen(video(3), PICTURE, PICTURE).status == DriftStatus.model_validate(
        {signal: {"value": 0, "shot": 0, "second": 0.25} for signal in SIGNALS}
    )


def test_the_worst_of_each_signal_is_shown_with_its_place() -> None:
    frozen = PICTURE[[0] * 4]
    drifting = seen(video(4, 2), PICTURE, frozen, shade(PICTURE, 60), PICTURE, PICTURE, shade(PICTURE, 90))
    assert peak(drifting, "motion")[1:] == (0, 0.25)
    value, shot, second = peak(drifting, "colour")
    assert (shot, second) == (1, 1.25)
    assert value == pytest.approx(0.3, abs=0.05)


def test_each_shot_is_compared_with_its_own_beginning() -> None:
    other = shade(PICTURE, 100)
    drifting = seen(video(2, 2), PICTURE, PICTURE, other, other)
    assert {peak(drifting, signal)[0] for signal in SIGNALS} == {0}


def test_a_first_piece_of_one_frame_gives_way_to_one_that_shows_motion() -> None:
    first = shade(PICTURE, 100)[:1]
    drifting = seen(video(3), first, PICTURE, PICTURE)
    assert peak(drifting, "colour") == (0, 0, 0.312)
    assert peak(drifting, "motion") == (0, 0, 0.312)


def test_of_a_shot_of_single_frames_motion_is_not_judged() -> None:
    one = PICTURE[:1]
    status = seen(video(3), one, shade(one, 30), one).status
    assert status is not None
    assert status.motion is None
    assert status.colour is not None and status.colour.second == 0.062


def test_pieces_of_an_earlier_version_are_not_judged() -> None:
    assert seen(video(2), None, PICTURE).status is None
    drifting = seen(video(4), None, PICTURE, None, shade(PICTURE, 60))
    assert peak(drifting, "colour")[1:] == (0, 12 / 16)


def test_an_attempt_that_goes_on_has_seen_what_those_before_it_have() -> None:
    log = records([PICTURE, shade(PICTURE, 60), PICTURE, PICTURE[[0] * 4]])
    whole = Drifting(video(4), DriftPolicy.REPORT)
    for record in log:
        whole.see(record)
    whole.refreshes = 1
    units = [
        UnitRecord(index=index, attempt=1, stage_seconds={}, checkpoint=SEGMENT, refreshed=index == 2)
        for index in range(4)
    ]
    stored = [PieceRecord.model_validate_json(each.model_dump_json()) for each in log]
    resumed = Drifting.going_on(video(4), DriftPolicy.REPORT, units, stored)
    assert resumed.status == whole.status
    assert resumed.status is not None and resumed.status.refreshes == 1


@pytest.mark.parametrize(
    ("thresholds", "found"),
    [
        (None, {}),
        (DriftThresholds(), {}),
        (DriftThresholds(motion=1), {}),
        (DriftThresholds(motion=0.5, colour=0.1), {"motion": 0.5}),
        (DriftThresholds(contrast=0.1, sharpness=0.1, dissimilarity=0.1), {}),
    ],
)
def test_a_signal_has_passed_its_threshold_once_it_is_beyond(
    thresholds: DriftThresholds | None, found: dict[str, float]
) -> None:
    reference = Reference()
    assert reference.drift(look(PICTURE)) is None
    drift = reference.drift(look(PICTURE[[0] * 4]))
    assert drift is not None
    assert passed(drift, thresholds) == found


def test_what_is_not_judged_passes_nothing() -> None:
    reference = Reference()
    reference.drift(look(PICTURE))
    drift = reference.drift(look(PICTURE[:1]))
    assert drift is not None
    assert passed(drift, DriftThresholds(motion=0.01)) == {}


ALL = DriftThresholds(colour=0.1, contrast=0.1, sharpness=0.1, motion=0.5, dissimilarity=0.4)


@pytest.mark.parametrize("policy", [DriftPolicy.REPORT, DriftPolicy.REFRESH])
def test_only_one_policy_stops(policy: DriftPolicy) -> None:
    seen(video(2, drift=ALL), PICTURE, shade(PICTURE, 90), policy=policy).check()


def test_one_that_stops_says_where_and_why() -> None:
    within = seen(video(2, 2, drift=ALL), PICTURE, PICTURE, PICTURE, policy=DriftPolicy.STOP)
    within.check()
    beyond = seen(video(2, 2, drift=ALL), PICTURE, PICTURE, PICTURE, PICTURE[[0] * 4], policy=DriftPolicy.STOP)
    with pytest.raises(DriftedError) as stopped:
        beyond.check()
    value, _, _ = peak(beyond, "motion")
    assert str(stopped.value) == (
        f"In motion, shots[1] has drifted by {value:.3f} from its first frames at 0.750 s of the video; "
        "the model allows 0.5."
    )


def test_a_look_is_small_in_its_record() -> None:
    (record,) = records([PICTURE])
    assert record.look is not None
    assert len(record.look.model_dump_json()) < 700
    assert isinstance(look_of(record.look), Look)
