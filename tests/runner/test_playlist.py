"""The playlist grows with the video, and at no moment names what is not there."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.media.pictures import decode, moving_picture
from tests.runner.builders import SMALL, Stored
from tests.runner.fakes import Time
from videojob.media import MediaError, encode_segment
from videojob.runner import playlist as playlist_module
from videojob.runner.hold import Hold
from videojob.runner.playlist import Playlist, layout_record
from videojob.store import JobStore, LayoutRecord, PieceRecord, StoreError
from videojob.store.layout import LIVE, named
from videojob.store.live import LivePlaylist

COUNTS = (1, 12, 12, 30, 5)
"""Frames of each piece, at 12 frames a second."""
PATIENCE = 20.0


async def commit(files: JobStore, index: int, attempt: int = 1, *, counts: Sequence[int] = COUNTS) -> PieceRecord:
    segment = encode_segment(moving_picture(counts[index], first=sum(counts[:index])), SMALL.rate, sum(counts[:index]))
    unit = await files.commit_unit(index=index, attempt=attempt, checkpoint=b"latents", stage_seconds={})
    piece = await files.commit_piece(
        index=index,
        attempt=attempt,
        frames=counts[index],
        segment=segment,
        units=[unit.record],
        stage_seconds={},
        layout_record=layout_record(segment),
    )
    return piece.record


class Watched:
    """A store that looks at each playlist as a reader does who asks for it at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "team/u-1"
        self.files = JobStore(Stored(folder).store, "team", "u-1")
        self.shown = asyncio.Queue[str]()
        self.texts: list[str] = []

    def look(self, uri: str) -> None:
        """It was written: that is checked before anything else happens."""
        text = (self.folder / LIVE).read_text()
        assert uri == (self.folder / LIVE).as_uri()
        assert all((self.folder / key).is_file() for key in named(text))
        self.texts.append(text)
        self.shown.put_nowait(text)

    async def seen(self) -> str:
        return await asyncio.wait_for(self.shown.get(), PATIENCE)

    @asynccontextmanager
    async def playlist(self, hold: Hold | None = None) -> AsyncIterator[Playlist]:
        files = JobStore(Stored(self.folder.parent.parent).store, "team", "u-1")
        playlist = Playlist(files, SMALL.rate, hold or Time().hold(), self.look)
        try:
            yield playlist
        finally:
            await playlist.close()


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def frames(text: str) -> list[int]:
    """Of each media segment."""
    seconds = [float(line[8:-1]) for line in text.splitlines() if line.startswith("#EXTINF:")]
    return [round(each * float(SMALL.rate)) for each in seconds]


async def test_it_grows_with_each_piece_and_ends(watched: Watched) -> None:
    async with watched.playlist() as playlist:
        playlist.add(await commit(watched.files, 0))
        for index, total in ((1, 13), (2, 25), (3, 55), (4, 60)):
            playlist.add(await commit(watched.files, index))
            assert sum(frames(await watched.seen())) == total
        whole = await playlist.finish()

    assert frames(whole) == [13, 12, 15, 15, 5]
    assert [text.count("EXT-X-PLAYLIST-TYPE:EVENT") for text in watched.texts] == [1] * 4
    assert all(whole.replace("VOD", "EVENT").startswith(text) for text in watched.texts)
    assert whole.endswith("#EXT-X-ENDLIST\n")


async def test_what_players_get_is_the_video(watched: Watched) -> None:
    async with watched.playlist() as playlist:
        for index in range(len(COUNTS)):
            playlist.add(await commit(watched.files, index))
        await watched.files.live.end(await playlist.finish())

    times, pictures = decode(watched.folder / LIVE)
    assert [round(float(time * SMALL.rate), 3) for time in times] == list(range(60))
    alone = [decode((watched.folder / key).read_bytes())[1] for key in keys(watched.folder)]
    assert [picture.tobytes() for picture in pictures] == [each.tobytes() for piece in alone for each in piece]


def keys(folder: Path) -> list[str]:
    """Of the segments, in order."""
    found = [path for path in (folder / "attempts/1").glob("*.mp4") if "first" not in path.name]
    return [str(path.relative_to(folder)) for path in sorted(found, key=lambda path: int(path.name.partition("-")[0]))]


@pytest.mark.parametrize(
    ("counts", "segments"),
    [((1,), [1]), ((1, 1), [2]), ((2, 1), [2, 1]), ((1, 40), [21, 20]), ((23, 12), [23, 12])],
    ids=str,
)
async def test_a_first_piece_of_one_frame_goes_with_the_next_segment(
    watched: Watched, counts: tuple[int, ...], segments: list[int]
) -> None:
    async with watched.playlist() as playlist:
        for index in range(len(counts)):
            playlist.add(await commit(watched.files, index, counts=counts))
        assert frames(await playlist.finish()) == segments


async def test_another_attempt_goes_on_with_the_same_text(watched: Watched) -> None:
    records: list[PieceRecord] = []
    async with watched.playlist() as playlist:
        for index in range(3):
            records.append(await commit(watched.files, index))
            playlist.add(records[-1])
        while sum(frames(before := await watched.seen())) < 25:
            pass
    records.append(await commit(watched.files, 3, attempt=2))
    async with watched.playlist() as playlist:
        for record in records:
            playlist.add(record)
        after = await watched.seen()
    assert after.startswith(before)
    assert sum(frames(after)) == 55


async def test_what_somebody_else_has_committed_is_in_it(watched: Watched) -> None:
    """The log counts, not what one runner knows of it."""
    first = await commit(watched.files, 0, counts=(3, 4, 5))
    for index in (1, 2):
        await commit(watched.files, index, attempt=2, counts=(3, 4, 5))
    async with watched.playlist() as playlist:
        playlist.add(first)
        assert frames(await watched.seen()) == [3, 4, 5]


async def test_one_that_is_cut_off_writes_nothing(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    time = Time()
    hold = time.hold()
    asked = asyncio.Event()
    later = watched.files.later_pieces

    async def cut_off_meanwhile(self: JobStore, known: int) -> list[PieceRecord]:
        time.seconds += 60
        asked.set()
        return await later(known)

    monkeypatch.setattr(JobStore, "later_pieces", cut_off_meanwhile)
    async with watched.playlist(hold) as playlist:
        playlist.add(await commit(watched.files, 0, counts=(3,)))
        await asyncio.wait_for(asked.wait(), PATIENCE)
        assert "EXT-X-ENDLIST" in await playlist.finish(), "what is committed can still be finished"
    assert watched.texts == [] and not (watched.folder / LIVE).exists()


async def test_one_that_was_cut_off_catches_up(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where no further piece is committed."""
    time = Time()
    hold, later, asked = time.hold(), watched.files.later_pieces, asyncio.Event()

    async def cut_off(self: JobStore, known: int) -> list[PieceRecord]:
        asked.set()
        return await later(known)

    monkeypatch.setattr(JobStore, "later_pieces", cut_off)
    monkeypatch.setattr(playlist_module, "RETRY_SECONDS", 0.01)
    time.seconds += 60
    async with watched.playlist(hold) as playlist:
        playlist.add(await commit(watched.files, 0, counts=(3,)))
        await asyncio.wait_for(asked.wait(), PATIENCE)
        assert watched.texts == []
        hold.renew(time.seconds)
        assert frames(await watched.seen()) == [3]


async def test_a_job_that_was_closed_is_somebody_elses(watched: Watched) -> None:
    async with watched.playlist() as playlist:
        playlist.add(await commit(watched.files, 0, counts=(3, 4)))
        await watched.seen()
        await watched.files.close(1)
        playlist.add(await commit(JobStore(Stored(watched.folder.parent.parent).store, "team", "u-1"), 0, 2))
        await asyncio.wait_for(asyncio.wait({playlist._writing}), PATIENCE)
    assert len(watched.texts) == 1


async def test_a_write_that_fails_holds_up_nothing_and_is_tried_again(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, failures = LivePlaylist.write, 2

    async def failing(self: LivePlaylist, text: str) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise StoreError("the store is away", retryable=True)
        await write(self, text)

    monkeypatch.setattr(LivePlaylist, "write", failing)
    monkeypatch.setattr(playlist_module, "RETRY_SECONDS", 0.01)
    async with watched.playlist() as playlist:
        playlist.add(await commit(watched.files, 0, counts=(3,)))
        assert frames(await watched.seen()) == [3]


@pytest.mark.parametrize("layout", [None, "other"], ids=["of an earlier version", "of another encoder"])
async def test_records_of_other_versions(watched: Watched, layout: str | None) -> None:
    """One that does not say what is where is read for it; segments with another header make no video together."""
    first, second = [await commit(watched.files, index, counts=(3, 4)) for index in range(2)]
    assert second.layout is not None
    changed: LayoutRecord | None = None
    if layout:
        changed = second.layout.model_copy(update={"header_sha256": "0" * 64})
    second = second.model_copy(update={"layout": changed})
    async with watched.playlist() as playlist:
        playlist.add(first)
        playlist.add(second)
        if layout:
            with pytest.raises(MediaError, match="different headers"):
                await playlist.finish()
        else:
            assert frames(await playlist.finish()) == [3, 4]
