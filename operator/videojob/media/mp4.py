"""Segments to one MP4, and what an MP4 holds."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Self

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from videojob.media.errors import MediaError, explained
from videojob.media.timing import muxer_options, tick, ticks_per_frame


class Mp4Writer:
    """One MP4 from the segments of a video, without encoding anything again: `with Mp4Writer(path, fps) as mp4: ...`.

    The index comes first in the file (faststart), so it plays while it is still being fetched. The file is written
    beside `path` and takes its name when the block ends; if the block raises, there is no file. Memory stays at one
    segment.

    Raises:
        MediaError: No segment was added, or the file could not be written.
    """

    def __init__(self, path: Path, fps: Fraction) -> None:
        self.frames = 0
        """Frames written so far."""
        self._path = path
        self._part = path.with_name(path.name + ".part")
        self._tick = tick(fps)
        self._ticks_per_frame = ticks_per_frame(fps)
        self._stream: VideoStream | None = None
        self._parameter_sets: bytes | None = None
        with explained(f"write {path}"):
            self._container = av.open(self._part, "w", format="mp4", options=muxer_options(fps, "faststart"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            with explained(f"write {self._path}"):
                self._container.close()
            if error is None and not self.frames:
                raise MediaError("A video needs at least one segment.")
            if error is None:
                self._part.replace(self._path)
        finally:
            self._part.unlink(missing_ok=True)

    def add(self, segment: bytes) -> None:
        """Append the segment that begins at the frame after the last one added (at 0 for the first).

        Raises:
            MediaError: It begins elsewhere, was encoded with other settings, is damaged, or the disk is full.
        """
        with explained("join the segments"), av.open(io.BytesIO(segment), "r", format="mp4") as source:
            track = _video(source)
            if self._stream is None:
                self._parameter_sets = track.codec_context.extradata
                self._stream = self._container.add_stream_from_template(track)
                self._stream.time_base = self._tick
            if track.codec_context.extradata != self._parameter_sets or track.time_base != self._tick:
                raise MediaError(
                    f"The segment at frame {self.frames} has another size, frame rate or encoder setting than the "
                    "video it belongs to. All chunks of a job have to be encoded by one version of the runner."
                )
            torn = False
            for packet in source.demux(track):
                if not packet.size:
                    continue
                torn = torn or packet.is_corrupt
                if packet.pts != self.frames * self._ticks_per_frame:
                    raise MediaError(
                        f"Frame {self.frames} is missing: segments have to be joined in order, without gaps."
                    )
                packet.stream = self._stream
                self._container.mux(packet)
                self.frames += 1
            if torn or track.duration != self.frames * self._ticks_per_frame:
                raise MediaError(
                    f"The segment that ends before frame {self.frames} is torn: it announces other frames."
                )


def remux(segments: Iterable[bytes], path: Path, fps: Fraction) -> None:
    """Write the MP4 of all segments, taken in order and one at a time; see `Mp4Writer`."""
    with Mp4Writer(path, fps) as mp4:
        for segment in segments:
            mp4.add(segment)


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds; width and height in pixels."""

    frames: int
    duration_seconds: float
    width: int
    height: int


def probe(path: Path) -> VideoInfo:
    """Count the frames of a video file and measure them; nothing is decoded.

    Raises:
        MediaError: The file cannot be read, or has no video in it.
    """
    with explained(f"read {path}"), av.open(path) as source:
        track = _video(source)
        ticks = [packet.duration or 0 for packet in source.demux(track) if packet.size]
        duration = float(sum(ticks) * (track.time_base or Fraction(0)))
        return VideoInfo(len(ticks), duration, track.width, track.height)


def _video(source: InputContainer) -> VideoStream:
    if not source.streams.video:
        raise MediaError("The file has no video in it.")
    return source.streams.video[0]
