"""Frames to pixels that play: a segment per chunk, one MP4 from all segments, a playlist of them, and pictures.

Both are the same bytes however often and wherever they are made, with one image of this software: a job that was
resumed ends with the file of one that never was. All but
`read_image` blocks, so call it in a worker thread: FFmpeg runs without the interpreter's lock.
"""

from videojob.media.errors import DiskError, MediaError
from videojob.media.image import ImageError, read_image
from videojob.media.layout import Layout, layout_of
from videojob.media.mp4 import Mp4Writer, VideoInfo, probe, remux
from videojob.media.playlist import MediaSegment, Range, playlist
from videojob.media.segment import encode_segment
from videojob.media.stills import contact_sheet, jpeg, picture, thumbnail

__all__ = [
    "DiskError",
    "ImageError",
    "Layout",
    "MediaError",
    "MediaSegment",
    "Mp4Writer",
    "Range",
    "VideoInfo",
    "contact_sheet",
    "encode_segment",
    "jpeg",
    "layout_of",
    "picture",
    "playlist",
    "probe",
    "read_image",
    "remux",
    "thumbnail",
]
