"""The commit protocol: what is finished stays finished and unchanged, whoever dies when."""

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.exceptions import GenericError

from tests.store.conftest import Place
from tests.store.writing import SECONDS, WRITES, ProcessDied, checkpoint, commit, commit_unit, dying, named, segment
from videojob.store import Committed, CorruptObject
from videojob.store.folder import PARALLEL_READS
from videojob.store.objects import Objects


async def test_a_new_job_has_nothing(place: Place) -> None:
    job = place.job()
    assert await job.committed() == Committed((), ())
    assert await job.output() is None


async def test_what_is_committed_is_there_for_everybody(place: Place) -> None:
    committed = await commit(place.job(), 0)
    assert not committed.adopted
    reader = place.job()
    found = await reader.committed()
    (unit,), (record,) = found.units, found.pieces
    assert record == committed.record
    assert (unit.index, unit.attempt, unit.stage_seconds) == (0, 1, SECONDS)
    assert (record.index, record.attempt, record.frames, record.stage_seconds) == (0, 1, 1, SECONDS)
    assert record.units == {0: unit.checkpoint.sha256}
    assert await reader.read_segment(record) == segment(0)
    assert await reader.read_checkpoints([unit]) == [checkpoint(0)]
    assert record.segment.sha256 == hashlib.sha256(segment(0)).hexdigest()
    assert record.segment.size_bytes == len(segment(0))


async def test_the_layout_is_that_of_the_design(place: Place) -> None:
    job = place.job("team", "0b5c")
    await commit(job, 11, attempt=3)
    assert place.files() == {
        named("team/0b5c/attempts/3/11", ".mp4", segment(11)),
        named("team/0b5c/attempts/3/11", ".safetensors", checkpoint(11)),
        "team/0b5c/latents/11.json",
        "team/0b5c/segments/11.json",
    }


async def test_a_unit_counts_before_its_piece_is_there(place: Place) -> None:
    """So a decoder that fails, or a kill while it works, costs no denoising."""
    for index in range(3):
        await commit_unit(place.job(), index)
    await commit(place.job(), 0)
    found = await place.job().committed()
    assert (len(found.units), len(found.pieces)) == (3, 1)
    assert await place.job().count() == 3


@pytest.mark.parametrize(
    ("indexes", "expected"),
    [((), 0), ((0,), 1), ((1,), 0), ((0, 1, 2), 3), ((0, 1, 3, 4), 2), (tuple(range(25)), 25)],
    ids=["none", "first", "first-missing", "whole", "gap", "many"],
)
async def test_a_job_goes_on_at_the_first_missing_record(place: Place, indexes: tuple[int, ...], expected: int) -> None:
    for index in indexes:
        await commit(place.job(), index)
    found = await place.job().committed()
    assert [[record.index for record in log] for log in (found.units, found.pieces)] == [list(range(expected))] * 2


@pytest.mark.parametrize("variant", ["", "other bytes"], ids=["same-bytes", "other-bytes"])
@pytest.mark.parametrize("successor", [1, 2], ids=["same-attempt", "next-attempt"])
@pytest.mark.parametrize("written", [False, True], ids=["before-the-write", "after-the-write"])
@pytest.mark.parametrize("after", range(WRITES), ids=["checkpoint", "unit-record", "segment", "piece-record"])
async def test_a_successor_resumes_after_a_crash(
    place: Place, after: int, written: bool, successor: int, variant: str
) -> None:
    await commit(place.job(), 0)
    with pytest.raises(ProcessDied), dying(after, written=written):
        await commit(place.job(), 1)

    denoised = (after, written) >= (1, True)
    finished = (after, written) == (3, True)
    job = place.job()
    found = await job.committed()
    assert (len(found.units), len(found.pieces)) == (1 + denoised, 1 + finished)
    again = await commit(job, 1, attempt=successor, variant=variant)
    # The same attempt with the same bytes cannot distinguish its own record from that of its predecessor, and need not.
    ours = (successor, variant) == (1, "")
    assert again.adopted == (finished and not ours)
    found = await place.job().committed()
    unit, piece = found.units[1], found.pieces[1]
    assert piece == again.record
    assert await job.read_checkpoints([unit]) == [checkpoint(1, "" if denoised else variant)]
    assert await job.read_segment(piece) == segment(1, "" if finished else variant)
    assert (unit.attempt, piece.attempt) == (1 if denoised else successor, 1 if finished else successor)


async def test_a_predecessor_may_still_commit_what_it_put(place: Place) -> None:
    """The successor has the predecessor's attempt but other bytes: it must not spoil what the other may yet commit."""
    with pytest.raises(ProcessDied), dying(3, written=False):
        await commit(place.job(), 0, variant="predecessor")
    successor = await commit(place.job(), 0, variant="successor")
    late = await commit(place.job(), 0, variant="predecessor")
    assert late.adopted
    assert late.record == successor.record
    assert await place.job().read_segment(successor.record) == segment(0, "successor")


async def test_of_many_writers_one_wins(place: Place) -> None:
    for index in range(5):
        commits = await asyncio.gather(*(commit(place.job(), index, attempt) for attempt in range(1, 9)))
        assert [one.adopted for one in commits].count(False) == 1
        (winner,) = (one.record for one in commits if not one.adopted)
        assert {one.record.attempt for one in commits} == {winner.attempt}
        assert (await place.job().committed()).pieces[index] == winner
        assert await place.job().read_segment(winner) == segment(index)


@pytest.mark.parametrize("lost", range(WRITES), ids=["checkpoint", "unit-record", "segment", "piece-record"])
async def test_a_lost_answer_is_not_mistaken_for_another_writer(
    place: Place, lost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, calls = obstore.put_async, 0

    async def without_answer(*args: Any, **kwargs: Any) -> object:
        nonlocal calls
        calls += 1
        result = await put(*args, **kwargs)
        if calls == lost + 1:
            raise GenericError("Generic S3 error: HTTP error: error sending request")
        return result

    monkeypatch.setattr(obstore, "put_async", without_answer)
    committed = await commit(place.job(), 0)
    assert not committed.adopted
    assert (await place.job().committed()).pieces == (committed.record,)
    assert len(place.files()) == WRITES


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3), st.integers(1, 3), st.sampled_from(["a", "b"]), st.integers(0, WRITES), st.booleans()
        ),
        max_size=14,
    )
)
def test_a_record_never_changes_and_always_holds(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, str, int, bool]]
) -> None:
    """Runners of any attempt commit anything with any bytes, and die at any write."""
    place = Place(f"file://{tmp_path_factory.mktemp('store')}", Path())

    async def run() -> None:
        seen: dict[tuple[str, int], object] = {}
        for index, attempt, variant, after, written in steps:
            try:
                with dying(after, written=written):
                    await commit(place.job(), index, attempt, variant)
            except ProcessDied:
                pass
            job = place.job()
            found = await job.committed()
            assert len(found.units) >= len(found.pieces)
            for unit in found.units:
                assert seen.setdefault(("unit", unit.index), unit) == unit
                assert await job.read_checkpoints([unit]) in [[checkpoint(unit.index, it)] for it in "ab"]
            for piece in found.pieces:
                assert seen.setdefault(("piece", piece.index), piece) == piece
                assert piece.units == {piece.index: found.units[piece.index].checkpoint.sha256}
                assert await job.read_segment(piece) in [segment(piece.index, it) for it in "ab"]

    asyncio.run(run())


KILLED = """
import asyncio, json, sys
from tests.store.conftest import Place
from tests.store.test_commit import commit
from pathlib import Path
url, endpoint, credentials = json.loads(sys.argv[1])

async def main():
    job = Place(url, Path(), endpoint, credentials).job()
    for index in range(len((await job.committed()).pieces), 10_000):
        await commit(job, index, attempt=int(sys.argv[2]))
        print(index, flush=True)

asyncio.run(main())
"""


async def test_kill_9_loses_nothing_that_is_finished(place: Place) -> None:
    where = json.dumps([place.url, place.endpoint, dict(place.credentials) if place.credentials else None])
    reported = -1
    for attempt in (1, 2, 3):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", KILLED, where, str(attempt)),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert process.stdout is not None
        for _ in range(4 + attempt):
            reported = int(await process.stdout.readline())
        process.kill()
        await process.wait()
        job = place.job()
        found = await job.committed()
        assert len(found.units) >= len(found.pieces) > reported
        for piece in found.pieces:
            assert await job.read_segment(piece) == segment(piece.index)
        assert await job.read_checkpoints(found.units) == [checkpoint(unit.index) for unit in found.units]
    assert {piece.attempt for piece in found.pieces} == {1, 2, 3}


def damage_one_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


async def test_checkpoints_are_read_side_by_side_in_order(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resume needs some fifteen: one by one they are as many round trips."""
    job = place.job()
    records = [(await commit_unit(job, index)).record for index in range(PARALLEL_READS + 3)]
    get, reading, most = Objects.get, 0, 0
    together = asyncio.Event()

    async def counted(self: Objects, key: str) -> bytes | None:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        if reading == PARALLEL_READS:
            together.set()
        try:
            async with asyncio.timeout(20):
                await together.wait()
            return await get(self, key)
        finally:
            reading -= 1

    monkeypatch.setattr(Objects, "get", counted)
    assert await job.read_checkpoints(reversed(records)) == [checkpoint(unit.index) for unit in reversed(records)]
    assert most == PARALLEL_READS


@pytest.mark.parametrize(
    "damage",
    [damage_one_byte, lambda path: os.truncate(path, 10), lambda path: os.truncate(path, 0), Path.unlink],
    ids=["one-bit", "torn", "emptied", "missing"],
)
@pytest.mark.parametrize("suffix", ["mp4", "safetensors"])
async def test_a_damaged_object_is_noticed(place: Place, suffix: str, damage: Callable[[Path], None]) -> None:
    await commit(place.job(), 0)
    found = await place.job().committed()
    stored = found.pieces[0].segment if suffix == "mp4" else found.units[0].checkpoint
    damage(place.folder / "team/0b5c" / stored.key)
    job = place.job()
    with pytest.raises(CorruptObject, match=rf"{stored.key} is (damaged|missing)") as caught:
        await (job.read_segment(found.pieces[0]) if suffix == "mp4" else job.read_checkpoints(found.units))
    assert not caught.value.retryable
    assert not caught.value.unavailable


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"{}", b'{"index": 7}', None],
    ids=["empty", "no-json", "no-fields", "few-fields", "another-index"],
)
@pytest.mark.parametrize("log", ["latents", "segments"])
async def test_a_damaged_record_is_noticed(place: Place, log: str, content: bytes | None) -> None:
    await commit(place.job(), 0)
    await commit(place.job(), 1)
    folder = place.folder / "team/0b5c" / log
    (folder / "0.json").write_bytes((folder / "1.json").read_bytes() if content is None else content)
    with pytest.raises(CorruptObject, match=rf"{log}/0\.json"):
        await place.job().committed()


async def test_a_piece_that_was_made_of_other_checkpoints_cannot_be_finished_again(place: Place) -> None:
    """Its record stays for ever: the job says so, in place of starting again and again."""
    unit = (await commit_unit(place.job(), 0)).record
    await commit(place.job(), 0)
    other = unit.model_copy(update={"checkpoint": unit.checkpoint.model_copy(update={"sha256": "0" * 64})})
    with pytest.raises(CorruptObject, match="made from other checkpoints"):
        await place.job().commit_piece(
            index=0, attempt=2, frames=1, segment=segment(0), units=[other], stage_seconds=SECONDS
        )


async def test_a_piece_of_another_checkpoint_than_the_logs_does_not_count(place: Place) -> None:
    """Nor what follows it: its frames would not be those of the video that is being made."""
    for index in range(4):
        await commit(place.job(), index)
    path = place.folder / "team/0b5c/segments/2.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "units": {"2": "0" * 64}}))
    found = await place.job().committed()
    assert (len(found.units), len(found.pieces)) == (4, 2)


@pytest.mark.parametrize(
    "key", ["../other/attempts/1/0.mp4", "/etc/passwd", "attempts/1/../../x.mp4", "segments/0.json"]
)
async def test_a_record_cannot_point_out_of_its_job(place: Place, key: str) -> None:
    record = (await commit(place.job(), 0)).record
    path = place.folder / "team/0b5c/segments/0.json"
    path.write_text(path.read_text().replace(record.segment.key, key))
    with pytest.raises(CorruptObject):
        await place.job().committed()
