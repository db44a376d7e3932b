"""The object store: a job's units and pieces as two write-once logs, and its video. For S3 and for a local folder.

    <store>/<namespace>/<job uid>/
        attempts/<attempt>/<unit>.safetensors              the checkpoint of a unit
        latents/<unit>.json                                its record: the unit counts from the moment this exists
        attempts/<attempt>/<piece>.mp4                     the segment of a piece
        segments/<piece>.json                              its record, which names the checkpoints that it comes from
        attempts/<attempt>/<index>.image                   an image that a shot begins or ends with
        images/<index>.json                                its record: 2 n is the first of shot n, 2 n + 1 the last
        partial/<unit>/<attempt>-<step>-<sha256>           what a unit has come to that was paused after that step
        output/playlist.m3u8                               what there is of the video, where it is asked for as HLS
        output/<attempt>.mp4, output/<attempt>.m3u8        the video, in each format that is asked for
        output/<attempt>-poster.jpg, -shots.jpg            pictures of it
        output.json                                        its record
        closed/<attempt>                                   attempts up to the highest of these have lost the job
        after/<attempt>/latents/, segments/, output.json   the records of those that came after it
    <store>/<namespace>/inputs/                            what people put there: images

A record is put create-only and never changes, so of two writers one wins and the other learns who did. See `JobStore`.
"""

from videojob.store.check import check_store
from videojob.store.errors import CorruptObject, JobClosed, ObjectTooLarge, StoreError
from videojob.store.jobs import JobStore
from videojob.store.location import open_store
from videojob.store.objects import Store
from videojob.store.partial import Origin, Partial, Partials
from videojob.store.prefix import Committed
from videojob.store.records import (
    Commit,
    Entry,
    FragmentRecord,
    LayoutRecord,
    LookRecord,
    OutputRecord,
    PieceRecord,
    StoredObject,
    UnitRecord,
)

__all__ = [
    "Commit",
    "Committed",
    "CorruptObject",
    "Entry",
    "FragmentRecord",
    "JobClosed",
    "JobStore",
    "LayoutRecord",
    "LookRecord",
    "ObjectTooLarge",
    "Origin",
    "OutputRecord",
    "Partial",
    "Partials",
    "PieceRecord",
    "Store",
    "StoreError",
    "StoredObject",
    "UnitRecord",
    "check_store",
    "open_store",
]
