"""The video is joined while its pieces are made: little is left to do after the last one."""

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.runner.builders import SMALL, Stored, commit, made
from videojob.media import DiskError, Mp4Writer, remux
from videojob.runner.clock import Clock
from videojob.runner.output import AT_HAND, VideoFile, video_file
from videojob.store import CorruptObject, JobStore, PieceRecord
from videojob.store.folder import PARALLEL_READS

COUNT = 2 * PARALLEL_READS + AT_HAND + 3
"""Pieces of the video."""


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
async def files(tmp_path: Path) -> JobStore:
    return JobStore(Stored(tmp_path / "store").store, "team", "u-1")


@pytest.fixture
async def records(files: JobStore) -> tuple[PieceRecord, ...]:
    for index in range(COUNT):
        await commit(files, made(index, shade=5 * index))
    return (await files.committed()).pieces


@pytest.fixture
async def file(files: JobStore, scratch: Path) -> AsyncIterator[VideoFile]:
    async with video_file(files, SMALL.rate, Clock()) as file:
        yield file
    assert within(scratch) == []


def within(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def segment(index: int) -> bytes:
    return made(index, shade=5 * index).piece.segment


@pytest.mark.parametrize("read", [0, 1, PARALLEL_READS + 1, COUNT], ids="{} of an earlier attempt".format)
async def test_the_video_has_the_bytes_of_one_that_is_joined_at_the_end(
    file: VideoFile, records: tuple[PieceRecord, ...], read: int, tmp_path: Path
) -> None:
    for record in records:
        file.add(record, None if record.index < read else segment(record.index))

    path = await file.finish()

    remux((segment(index) for index in range(COUNT)), tmp_path / "at the end.mp4", SMALL.rate)
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(
        (tmp_path / "at the end.mp4").read_bytes()
    ).digest()  # fmt: skip
    assert file.pieces == COUNT


async def test_a_piece_is_joined_before_the_next_one_is_there(
    file: VideoFile, records: tuple[PieceRecord, ...], files: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And from memory: nothing that this attempt has made is read back."""
    joined, loop, add = asyncio.Semaphore(0), asyncio.get_running_loop(), Mp4Writer.add

    def watched(self: Mp4Writer, data: bytes) -> None:
        add(self, data)
        loop.call_soon_threadsafe(joined.release)

    async def unread(record: PieceRecord) -> bytes:
        raise AssertionError(f"piece {record.index} is read from the store")

    monkeypatch.setattr(Mp4Writer, "add", watched)
    monkeypatch.setattr(files, "read_segment", unread)
    for record in records:
        file.add(record, segment(record.index))
        await asyncio.wait_for(joined.acquire(), 30)
    await file.finish()


async def test_what_waits_to_be_joined_takes_bounded_memory(
    file: VideoFile, records: tuple[PieceRecord, ...], files: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is slower than the accelerator must not fill the runner's memory with segments."""
    read, read_segment = list[int](), files.read_segment

    async def reading(record: PieceRecord) -> bytes:
        read.append(record.index)
        return await read_segment(record)

    monkeypatch.setattr(files, "read_segment", reading)
    for record in records:  # The writer has no turn meanwhile.
        file.add(record, segment(record.index))

    await file.finish()

    assert sorted(read) == list(range(AT_HAND, COUNT))


async def test_what_cannot_be_read_is_raised_by_the_next_piece(
    file: VideoFile, records: tuple[PieceRecord, ...], tmp_path: Path
) -> None:
    (tmp_path / "store/team/u-1" / records[0].segment.key).unlink()
    file.add(records[0])
    with pytest.raises(CorruptObject, match="is missing"):
        async with asyncio.timeout(30):
            while True:
                await asyncio.sleep(0)
                file.add(records[1], segment(1))


async def test_a_full_disk_is_raised_as_such(file: VideoFile, records: tuple[PieceRecord, ...], scratch: Path) -> None:
    (folder,) = within(scratch)
    (folder / "output.mp4.part").symlink_to("/dev/full")
    with pytest.raises(DiskError, match="No space left on device"):
        for record in records:
            file.add(record, segment(record.index))
        await file.finish()


async def test_a_disk_that_takes_no_folder_is_raised_as_such(
    files: JobStore, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(scratch / "missing"))
    with pytest.raises(DiskError, match="Could not make a folder for the video"):
        async with video_file(files, SMALL.rate, Clock()):
            pass
