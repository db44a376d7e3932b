"""Frames to pixels that play: a segment per chunk, one MP4 from all segments, a playlist of them, and pictures.

Also what frames look like, to see a video drift, and what images are that people give. All are the same bytes however
often and wherever they are made, with one image of this software: a job that was resumed ends with the file of one that
never was. All but `read_image` blocks, so call it in a worker thread: FFmpeg runs without the interpreter's lock.
"""

from videojob.media.drift import Drift, Look, drift, look
from videojob.media.errors import DiskError, MediaError
from videojob.media.image import ImageError, read_image
from videojob.media.layout import Layout, layout_of
from videojob.media.mp4 import Mp4Writer, VideoInfo, probe, remux
from videojob.media.playlist import MediaSegment, Range, playlist
from videojob.media.segment import encode_segment
from videojob.media.stills import contact_sheet, jpeg, picture, thumbnail

__all__ = [
    "DiskError",
    "Drift",
    "ImageError",
    "Layout",
    "Look",
    "MediaError",
    "MediaSegment",
    "Mp4Writer",
    "Range",
    "VideoInfo",
    "contact_sheet",
    "drift",
    "encode_segment",
    "jpeg",
    "layout_of",
    "look",
    "picture",
    "playlist",
    "probe",
    "read_image",
    "remux",
    "thumbnail",
]
