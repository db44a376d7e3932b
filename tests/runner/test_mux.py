"""The final MP4 is written beside the event loop, by one thread at a time."""

import asyncio
import threading
from collections.abc import AsyncIterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from videojob.media import MediaError, Mp4Writer, encode_segment, probe
from videojob.runner.mux import write_mp4

FPS = Fraction(8)


def segment(first_frame: int) -> bytes:
    frames = np.random.default_rng(first_frame).integers(0, 255, (4, 32, 32, 3), np.uint8)
    return encode_segment(frames, FPS, first_frame)


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def segments(*first_frames: int) -> AsyncIterator[bytes]:
    for first_frame in first_frames:
        yield segment(first_frame)


async def test_nothing_of_it_runs_on_the_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    for name in ("add", "__exit__"):
        original = getattr(Mp4Writer, name)

        def watched(self: Mp4Writer, *args: object, original: object = original) -> None:
            threads.append(threading.current_thread().name)
            original(self, *args)  # type: ignore[operator]

        monkeypatch.setattr(Mp4Writer, name, watched)

    await write_mp4(tmp_path / "output.mp4", FPS, segments(0, 4))

    assert len(threads) == 3 and threading.main_thread().name not in threads
    video = probe(tmp_path / "output.mp4")
    assert (video.frames, video.duration_seconds) == (8, 1.0)


async def test_a_cancelled_one_leaves_no_file_and_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adding, go_on, events = asyncio.Event(), threading.Event(), list[str]()
    loop, add, leave = asyncio.get_running_loop(), Mp4Writer.add, Mp4Writer.__exit__

    def slow(self: Mp4Writer, data: bytes) -> None:
        loop.call_soon_threadsafe(adding.set)
        go_on.wait(30)
        add(self, data)
        events.append("added")

    def last(self: Mp4Writer, *error: object) -> None:
        events.append("closed")
        leave(self, *error)  # type: ignore[arg-type]

    monkeypatch.setattr(Mp4Writer, "add", slow)
    monkeypatch.setattr(Mp4Writer, "__exit__", last)
    writing = asyncio.create_task(write_mp4(tmp_path / "output.mp4", FPS, segments(0, 4)))
    await asyncio.wait_for(adding.wait(), 30)
    writing.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await writing

    assert events == ["added", "closed"], "the file was closed while a thread wrote to it"
    assert files(tmp_path) == []


async def test_segments_that_do_not_follow_each_other_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="Frame 4 is missing"):
        await write_mp4(tmp_path / "output.mp4", FPS, segments(0, 8))

    assert files(tmp_path) == []
