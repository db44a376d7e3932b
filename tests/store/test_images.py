"""What a job's shots begin with: given by people, and kept with the job from then on."""

from pathlib import Path

import pytest

from tests.store.conftest import Place
from tests.store.writing import commit, named
from videojob.store import CorruptObject, JobClosed, ObjectTooLarge

FOX, OWL = b"a fox" * 100, b"an owl" * 100


def put(place: Place, name: str, data: bytes) -> None:
    path = place.folder / "team" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


async def test_what_people_have_put_into_the_namespace_is_found(place: Place) -> None:
    put(place, "inputs/animals/fox.png", FOX)
    assert await place.job().given.read("inputs/animals/fox.png", len(FOX)) == FOX
    for missing in ("inputs/animals/owl.png", "inputs/animals", "inputs"):
        assert await place.job().given.read(missing, len(FOX)) is None
    assert await place.job(namespace="other").given.read("inputs/animals/fox.png", len(FOX)) is None
    assert place.job().given.uri("inputs/fox.png") == f"{place.url}/team/inputs/fox.png"


async def test_a_link_leads_to_nothing_beyond_the_namespace(tmp_path: Path) -> None:
    """In a local folder: a bucket has none."""
    place = Place(f"file://{tmp_path}/store", tmp_path / "store")
    put(place, "inputs/fox.png", FOX)
    (place.folder / "other").mkdir()
    (place.folder / "other" / "private.png").write_bytes(OWL)
    for name, target in (("near", "fox.png"), ("far", "../../other/private.png"), ("host", "/etc/hostname")):
        (place.folder / "team" / "inputs" / name).symlink_to(target)
    found = [await place.job().given.read(f"inputs/{name}", 1 << 20) for name in ("near", "far", "host")]
    assert found == [FOX, None, None]


async def test_what_is_too_large_is_not_read(place: Place) -> None:
    put(place, "inputs/fox.png", FOX)
    with pytest.raises(ObjectTooLarge) as refused:
        await place.job().given.read("inputs/fox.png", len(FOX) - 1)
    assert refused.value.size == len(FOX)
    assert not refused.value.unavailable


async def test_the_image_that_was_kept_first_counts(place: Place) -> None:
    assert await place.job().image(3) is None
    await place.job().keep_image(index=3, attempt=1, image=FOX)
    await place.job().keep_image(index=3, attempt=2, image=OWL)
    assert await place.job().image(3) == FOX
    assert await place.job().image(30) is None
    assert {name for name in place.files() if "/attempts/1/" in name} == {
        f"team/0b5c/{named('attempts/1/3', '.image', FOX)}"
    }


async def test_a_later_attempt_of_a_closed_job_begins_with_the_image_anew(place: Place) -> None:
    old = place.job()
    await old.keep_image(index=0, attempt=1, image=FOX)
    await place.job().close(1)
    new = place.job()
    assert await new.image(0) is None
    await new.keep_image(index=0, attempt=2, image=OWL)
    with pytest.raises(JobClosed):
        await old.keep_image(index=1, attempt=1, image=FOX)
    await place.job().sweep(1, in_use=True)
    assert await place.job().image(0) == OWL
    assert not [name for name in place.files() if "/attempts/1/" in name]


async def test_a_finished_video_needs_none(place: Place) -> None:
    put(place, "inputs/fox.png", FOX)
    job = place.job()
    await job.keep_image(index=0, attempt=1, image=FOX)
    await commit(job, 0)
    await job.discard_parts()
    assert place.files() == {"team/inputs/fox.png"}


async def test_one_that_is_torn_is_noticed(place: Place) -> None:
    await place.job().keep_image(index=0, attempt=1, image=FOX)
    (name,) = (name for name in place.files() if name.endswith(".image"))
    (place.folder / name).write_bytes(FOX[:-1])
    with pytest.raises(CorruptObject):
        await place.job().image(0)
