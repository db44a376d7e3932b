"""Frames to pixels that play: a segment per chunk, and one MP4 from all segments.

Both are the same bytes however often and wherever they are made, with one image of this software: a job that was
resumed ends with the file of one that never was. Everything here blocks, so call it in a worker thread: FFmpeg runs
without the interpreter's lock.
"""

from videojob.media.errors import DiskError, MediaError
from videojob.media.mp4 import Mp4Writer, VideoInfo, probe, remux
from videojob.media.segment import encode_segment

__all__ = ["DiskError", "MediaError", "Mp4Writer", "VideoInfo", "encode_segment", "probe", "remux"]
