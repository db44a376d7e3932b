"""What units have come to that were paused: a hint, which counts only where it is whole and comes from the same."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store.conftest import Place
from tests.store.writing import commit, commit_unit
from videojob.store import Origin, Partial

STEPS = 50
ORIGIN = Origin(unit=3, steps=STEPS, past={1: "a" * 64, 2: "b" * 64}, request="c" * 64, weights="sha256:d")
OTHERS: dict[str, Any] = {
    "past": {1: "a" * 64, 2: "c" * 64},
    "request": "d" * 64,
    "weights": "sha256:e",
    "steps": STEPS + 1,
}
"""What it may come from instead."""


def names(place: Place) -> list[str]:
    """Of what is there, without the part that names the content."""
    return sorted(name.removeprefix("team/0b5c/").rpartition("-")[0] for name in place.files())


def partial(step: int) -> Partial:
    return Partial(step, f"after step {step}\n".encode() * 10)


async def test_it_comes_back_as_it_was_left(place: Place) -> None:
    assert await place.job().partials.find(ORIGIN) is None
    await place.job().partials.put(ORIGIN, 1, partial(7))
    assert names(place) == ["partial/3/1-7"]
    assert await place.job().partials.find(ORIGIN) == partial(7)
    assert await place.job().partials.find(ORIGIN.model_copy(update={"unit": 30})) is None


async def test_it_may_be_put_again_and_replaces_no_other(place: Place) -> None:
    for checkpoint in (b"first", b"first", b"second"):
        await place.job().partials.put(ORIGIN, 1, Partial(7, checkpoint))
    assert names(place) == ["partial/3/1-7", "partial/3/1-7"]


@pytest.mark.parametrize("step", [STEPS, STEPS + 1])
async def test_one_of_a_whole_unit_is_none(place: Place, step: int) -> None:
    await place.job().partials.put(ORIGIN, 1, partial(step))
    assert await place.job().partials.find(ORIGIN) is None


async def test_what_somebody_else_has_put_there_is_passed_over(place: Place) -> None:
    await place.job().partials.put(ORIGIN, 1, partial(7))
    folder = place.folder / "team/0b5c/partial/3"
    (file,) = folder.iterdir()
    header, _, rest = file.read_bytes().partition(b"\n")
    other = header.replace(b'"version":1', b'"version":2') + b"\n" + rest
    for step, data in enumerate([b"", b"\n", b"{}\n" + rest, header, header + rest, b"\xff\n" + rest, other], 8):
        (folder / f"2-{step}-{'0' * 16}").write_bytes(data)
    (folder / "2-9").write_bytes(header + b"\n" + rest)
    (folder / "notes.txt").write_bytes(header + b"\n" + rest)
    assert await place.job().partials.find(ORIGIN) == partial(7)


@dataclass(frozen=True)
class Left:
    """One that an attempt has left."""

    attempt: int
    step: int
    other: str
    """What it does not have in common with ORIGIN; nothing where it is empty."""
    torn: bool


LEFT = st.builds(
    Left, st.integers(1, 9), st.integers(1, STEPS - 1), st.sampled_from(["", "", *OTHERS]), torn=st.booleans()
)


@settings(max_examples=60, deadline=None)
@given(left=st.lists(LEFT, max_size=6, unique_by=lambda each: (each.attempt, each.step)))
def test_the_highest_step_counts_that_matches_in_all(
    tmp_path_factory: pytest.TempPathFactory, left: list[Left]
) -> None:
    folder = tmp_path_factory.mktemp("job")
    place = Place(f"file://{folder}/store", folder / "store")

    async def play() -> Partial | None:
        for each in left:
            origin = ORIGIN.model_copy(update={each.other: OTHERS[each.other]} if each.other else {})
            await place.job().partials.put(origin, each.attempt, partial(each.step))
            if each.torn:
                (file,) = place.folder.glob(f"team/0b5c/partial/3/{each.attempt}-{each.step}-*")
                file.write_bytes(file.read_bytes()[:-1])
        return await place.job().partials.find(ORIGIN)

    matching = [each.step for each in left if not each.other and not each.torn]
    assert asyncio.run(play()) == (partial(max(matching)) if matching else None)


async def test_those_of_a_unit_are_discarded_and_no_others(place: Place) -> None:
    job = place.job()
    await job.partials.put(ORIGIN, 1, partial(7))
    await job.partials.put(ORIGIN.model_copy(update={"weights": "sha256:e"}), 2, partial(8))
    await job.partials.put(ORIGIN.model_copy(update={"unit": 30}), 2, partial(7))
    await job.partials.discard(3)
    await job.partials.discard(3)
    assert names(place) == ["partial/30/2-7"]


async def test_they_go_with_the_parts_of_a_finished_video(place: Place, tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_bytes(b"video")
    job = place.job()
    await commit(job, 0)
    await job.partials.put(ORIGIN, 1, partial(7))
    await job.commit_output(attempt=1, path=tmp_path / "video.mp4", frames=1, duration_seconds=1.0)
    await job.discard_parts()
    assert names(place) == ["", "output/1"]


async def test_a_purge_takes_them_along(place: Place) -> None:
    await place.job().partials.put(ORIGIN, 1, partial(7))
    await place.job().purge(keep_output=True)
    assert place.files() == set()


async def test_a_sweep_takes_those_of_closed_attempts(place: Place) -> None:
    job = place.job()
    for attempt in (1, 2, 12):
        await job.partials.put(ORIGIN, attempt, partial(attempt))
    assert await place.job().sweep(2, in_use=True) == 2
    assert names(place) == ["", "partial/3/12-12"]  # And `closed/2`.


async def test_one_of_a_closed_attempt_counts_where_it_comes_from_the_same(place: Place) -> None:
    """The bytes are those that would be made again."""
    await commit_unit(place.job(), 0)
    await place.job().partials.put(ORIGIN, 1, partial(7))
    await place.job().close(1)
    assert await place.job().partials.find(ORIGIN) == partial(7)
